"""The caller's modes change no result."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lmc_fast._modes import as_caller, neutral


@contextlib.contextmanager
def set_to(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def mkldnn_precision(value: str) -> Iterator[None]:
    backend = torch.backends.mkldnn.matmul
    if not hasattr(backend, "fp32_precision"):
        yield
        return
    with set_to(lambda: backend.fp32_precision, lambda v: setattr(backend, "fp32_precision", v), value):
        yield


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "none": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": lambda: set_to(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "matmul precision": lambda: set_to(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "a backend's precision": lambda: mkldnn_precision("bf16"),
    "fake tensors": FakeTensorMode,
    "numpy errors": lambda: np.errstate(all="raise"),
}


def modes() -> tuple[object, ...]:
    """All that the guard sets."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = "mixed"
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.empty(0).device,
        precision,
        getattr(torch.backends.mkldnn.matmul, "fp32_precision", None),
        tuple(np.geterr().values()),
        isinstance(torch.empty(0), FakeTensor),
    )


@neutral
def inside() -> tuple[object, ...]:
    return modes()


@pytest.mark.parametrize("name", MODES)
def test_inside_they_are_the_usual_and_outside_as_they_were(name: str) -> None:
    usual = inside()
    with MODES[name]():
        before = modes()
        found = inside()
        assert modes() == before
    if name == "a backend's precision":
        # torch tells one precision for all no longer, once a backend has its own.
        assert found[:5] == usual[:5] and found[6] in ("ieee", None)
    else:
        assert found[:6] == usual[:6] and found[7:] == usual[7:]
        assert found[6] in ("none", "ieee", None)


@pytest.mark.parametrize("name", MODES)
def test_an_error_puts_them_back(name: str) -> None:
    @neutral
    def fails() -> None:
        raise ValueError("on purpose")

    with MODES[name]():
        before = modes()
        with pytest.raises(ValueError, match="on purpose"):
            fails()
        assert modes() == before


def test_code_of_the_callers_has_its_defaults() -> None:
    @neutral
    def calls(device: torch.device | None) -> tuple[torch.dtype, torch.device, torch.dtype]:
        with as_caller(device):
            made = torch.ones(1)
        return made.dtype, made.device, torch.ones(1).dtype

    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert calls(None) == (torch.float32, cpu, torch.float32)
    with MODES["default dtype"](), MODES["default device"]():
        assert calls(None) == (torch.float64, meta, torch.float32)
        assert calls(cpu) == (torch.float64, cpu, torch.float32)
    with as_caller():
        assert torch.ones(1).dtype == torch.float32


def test_names_and_docstrings_stay() -> None:
    assert inside.__name__ == "inside" and modes.__doc__


def test_threads_that_end_in_any_order_put_the_processes_settings_back() -> None:
    first_in, second_in, go = threading.Event(), threading.Event(), threading.Event()
    seen: list[torch.dtype] = []

    @neutral
    def first() -> None:
        first_in.set()
        second_in.wait(10)

    @neutral
    def second() -> None:
        second_in.set()
        go.wait(10)
        seen.append(torch.get_default_dtype())

    with MODES["default dtype"]():
        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        assert first_in.wait(10)
        threads[1].start()
        threads[0].join(10)
        go.set()
        threads[1].join(10)
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
