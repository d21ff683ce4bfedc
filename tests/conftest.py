"""Seeds, poisoned memory, and the gpu and interpreter marks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lmc_fast._backend import interpreted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="fail, not skip, gpu tests without a device")
    parser.addoption(
        "--require-cross", action="store_true", help="fail, not skip, without a compiler and an emulator for AArch64"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if item.config.getoption("--require-gpu"):
            pytest.fail("--require-gpu: no GPU that torch can use")
        pytest.skip("needs a GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave interpreted kernels to the process that `tests/ops/test_kernels.py` starts for them.

    Triton decides when it is first imported, and everything else would be slow with it.
    """
    if interpreted():
        return
    left = [item for item in items if item.get_closest_marker("interpreter")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("interpreter")]


@pytest.fixture(autouse=True)
def seeds() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run as they do unasked, and what a test measures is not kept for anyone."""
    monkeypatch.delenv("LMC_FAST_AUTOTUNE", raising=False)
    monkeypatch.setenv("LMC_FAST_CACHE", os.devnull)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was not written reads as NaN (floats) or as a far-off number (integers)."""
    plain_empty: Callable[..., Any] = np.empty

    def poisoned_empty(*args: Any, **kwargs: Any) -> Any:
        array = plain_empty(*args, **kwargs)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        elif array.dtype.kind == "i":
            array.fill(np.iinfo(array.dtype).min)
        return array

    monkeypatch.setattr(np, "empty", poisoned_empty)
    was = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = was
