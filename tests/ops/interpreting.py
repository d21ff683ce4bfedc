"""Triton's interpreter without what it does over and over, for the tests of kernels and for them alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

__all__ = ["interpret_quickly"]


def interpret_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the same in half of the time."""
    _patch_once(monkeypatch)
    _name_once(monkeypatch)
    _leave_out_what_nobody_asks(monkeypatch)


def _patch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter puts its own functions in the language's place for a kernel, and again for all that it calls.

    That changes nothing: this package's functions run within a kernel, and those of the language itself, whose core
    stays as their first call has left it, too.
    """
    from triton.language import core
    from triton.runtime.interpreter import InterpretedFunction

    plain = InterpretedFunction.__call__

    def call(self: InterpretedFunction, *args: object, **kwargs: object) -> object:
        ready = self.fn.__module__.startswith("lmc_fast.") or not core.is_builtin(core.full)
        return (self.rewrite() if ready else partial(plain, self))(*args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", call)


def _name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of numpy's names for dtypes is made anew whenever one is looked up."""
    from triton import language
    from triton.runtime import interpreter

    plain = interpreter._get_np_dtype
    found: dict[str, Any] = {}

    def look_up(dtype: Any) -> Any:
        element = dtype.element_ty if isinstance(dtype, language.block_type) else dtype
        if isinstance(element, language.pointer_type):
            return plain(element)
        if element.name not in found:
            found[element.name] = plain(element)
        return found[element.name]

    monkeypatch.setattr(interpreter, "_get_np_dtype", look_up)


def _leave_out_what_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether integers overflow is computed for every sum, and asked where Triton debugs alone."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        monkeypatch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
