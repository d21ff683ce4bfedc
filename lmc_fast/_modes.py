"""The caller's modes, and the one guard that keeps them out of the package's arithmetic.

Public functions are `neutral`: whatever the caller's modes, they run with gradients where a method wants them, outside
inference mode, without autocast or fake tensors, in float32 products of full precision, with torch's own default dtype
and device, and with numpy's own treatment of floating point errors. Whether algorithms are to be deterministic stays
the caller's say.

Code of the caller's that runs on the way (a forward pass, a loss, a data set) gets its default dtype and device back,
by `as_caller`: it was written under them.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

__all__ = ["as_caller", "neutral", "uncompiled"]

P = ParamSpec("P")
T = TypeVar("T")

# numpy's own: what np.seterr says in a fresh process.
_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# Values that name the precision of float32 itself.
_FULL = ("none", "ieee")


def _autocast_kinds() -> tuple[str, ...]:
    """Types of device that this torch knows autocast for."""
    known = []
    for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla", "privateuseone"):
        try:
            torch.is_autocast_enabled(kind)
        except RuntimeError:
            continue
        known.append(kind)
    return tuple(known)


_AUTOCAST_KINDS = _autocast_kinds()


@dataclass(frozen=True)
class _Caller:
    """The defaults under which a public function was called; a device of None is torch's own, the CPU."""

    dtype: torch.dtype
    device: torch.device | None


class _Here(threading.local):
    """What each thread is in: a public function that this caller called, or none."""

    caller: _Caller | None = None


_here = _Here()


class _Process:
    """Settings that all threads share: the first public function to begin sets them, the last to end puts them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._dtype = torch.float32
        self._undo: list[Callable[[], object]] = []

    @contextmanager
    def neutral(self) -> Iterator[torch.dtype]:
        """Yield the default dtype that was found."""
        with self._lock:
            if self._inside == 0:
                self._dtype = torch.get_default_dtype()
                self._undo = [*_set_default_dtype(torch.float32), *_set_full_precision()]
            self._inside += 1
        try:
            yield self._dtype
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    for undo in self._undo:
                        undo()
                    self._undo = []


_process = _Process()


def _set_default_dtype(dtype: torch.dtype) -> list[Callable[[], object]]:
    found = torch.get_default_dtype()
    if found == dtype:
        return []
    torch.set_default_dtype(dtype)
    return [functools.partial(torch.set_default_dtype, found)]


def _set_full_precision() -> list[Callable[[], object]]:
    """Compute products of float32 in float32; what undoes it."""
    try:
        found = torch.get_float32_matmul_precision()
    except RuntimeError:
        # torch 2.9 and later, where precision was set for single backends.
        found = "highest"
    if found != "highest":
        torch.set_float32_matmul_precision("highest")
        return [functools.partial(torch.set_float32_matmul_precision, found)]
    undo: list[Callable[[], object]] = []
    mkldnn = torch.backends.mkldnn
    for backend in (torch.backends.cuda.matmul, *(getattr(mkldnn, op, None) for op in ("matmul", "conv", "rnn"))):
        precision = getattr(backend, "fp32_precision", "none")
        if precision not in _FULL:
            setattr(backend, "fp32_precision", "ieee")  # noqa: B010
            undo.append(functools.partial(setattr, backend, "fp32_precision", precision))
    return undo


def _default_device() -> torch.device | None:
    """The default device of this thread where one was set, by a call or by a context."""
    stack: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    mode = next((mode for mode in reversed(stack) if isinstance(mode, DeviceContext)), None)
    return None if mode is None else torch.device(mode.device)


@contextmanager
def _guarded() -> Iterator[None]:
    device = _default_device()
    with ExitStack() as stack:
        dtype = stack.enter_context(_process.neutral())
        if device is not None:
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            stack.enter_context(unset_fake_temporarily())
        for kind in _AUTOCAST_KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if np.geterr() != _NUMPY_ERRORS:
            stack.enter_context(np.errstate(**_NUMPY_ERRORS))  # type: ignore[arg-type]
        _here.caller = _Caller(dtype, device)
        stack.callback(setattr, _here, "caller", None)
        yield


def neutral(function: Callable[P, T]) -> Callable[P, T]:
    """Let a public function give the same result under any modes of the caller's; they are put back at its end."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        if _here.caller is not None:
            return function(*args, **kwargs)
        with _guarded():
            return function(*args, **kwargs)

    return guarded


@contextmanager
def as_caller(device: torch.device | None = None) -> Iterator[None]:
    """Around code of the caller's: its default dtype, and a default device where it had set one.

    Args:
        device: the default device to give where the caller set any: where its model is, say; None: the caller's own.
    """
    caller = _here.caller
    if caller is None or caller == _Caller(torch.float32, None):
        yield
        return
    with ExitStack() as stack:
        for undo in _set_default_dtype(caller.dtype):
            stack.callback(undo)
        if caller.device is not None:
            stack.enter_context(torch.device(caller.device if device is None else device))
        yield


class _Uncompiled:
    """How many threads look at operations, and what ends the compiler's rest."""

    def __init__(self) -> None:
        self.lock, self.inside, self.stack = threading.Lock(), 0, ExitStack()


_uncompiled = _Uncompiled()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Around a model that runs while its operations are looked at: compiled parts run as they are written, in all
    threads.

    They would do so by themselves, but the compiler would then leave them for good. Before torch 2.6 it does.
    """
    # Only what has imported the compiler has compiled parts.
    stance = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    with _uncompiled.lock:
        _uncompiled.inside += 1
        if _uncompiled.inside == 1 and stance is not None:
            _uncompiled.stack.enter_context(stance("force_eager"))
    try:
        yield
    finally:
        with _uncompiled.lock:
            _uncompiled.inside -= 1
            if _uncompiled.inside == 0:
                _uncompiled.stack.close()
