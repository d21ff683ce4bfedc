"""Why a run on several processes ends: what one of them met with, told so that all of them end in the same way."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from .._signals import Stopped, stop_of

__all__ = ["Fault", "died", "error_of", "fault_of", "sentence_of"]

# What went wrong, as JSON has it.
Fault = dict[str, Any]

# What bad input and a bad machine raise: these are raised by all ranks alike.
KNOWN = (ValueError, TypeError, ImportError, MemoryError, OSError)


def fault_of(error: BaseException, rank: int) -> Fault:
    """What a rank has met with."""
    if isinstance(error, KeyboardInterrupt):
        return {"kind": "stop", "number": int(stop_of(error))}
    if isinstance(error, OSError) and error.errno is not None and error.strerror is not None:
        name = None if error.filename is None else str(error.filename)
        return {"kind": "system", "number": error.errno, "text": error.strerror, "about": name}
    text = " ".join(str(error).split())
    if isinstance(error, KNOWN):
        # The nearest of Python's own that is made of a sentence alone.
        plain = next(
            kind
            for kind in type(error).__mro__
            if getattr(builtins, kind.__name__, None) is kind and not issubclass(kind, UnicodeError)
        )
        return {"kind": plain.__name__, "text": text}
    return {"kind": "RuntimeError", "text": f"rank {rank} failed: {type(error).__name__}: {text}"}


def died(rank: int, size: int, where: str) -> Fault:
    """That a rank is no more.

    Args:
        where: which process it was, for people.
    """
    text = (
        f"rank {rank} of {size} ({where}) has died; resume=True (--resume) goes on from what was done, with any number "
        "of ranks"
    )
    return {"kind": "ConnectionAbortedError", "text": text}


def error_of(fault: Mapping[str, Any]) -> BaseException:
    """What a rank raises that ends because of it."""
    if fault["kind"] == "stop":
        return Stopped(fault["number"])
    if fault["kind"] == "system":
        about = () if fault["about"] is None else (fault["about"],)
        return OSError(fault["number"], fault["text"], *about)
    kind: type[Exception] = getattr(builtins, fault["kind"])
    return kind(fault["text"])


def sentence_of(fault: Mapping[str, Any]) -> tuple[str, int]:
    """What the command says of it where it is ended without having heard, and its exit code."""
    error = error_of(fault)
    if isinstance(error, Stopped):
        return str(error), 128 + error.number
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename!r}: {error.strerror}", 2
    return str(error), 1 if isinstance(error, RuntimeError) else 2
