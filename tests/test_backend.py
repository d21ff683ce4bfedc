"""Choosing a backend: explicit choices are obeyed or raise, auto falls back and says so once."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from lmc_fast import _backend
from lmc_fast._backend import backends, choose
from lmc_fast.ops.permuted_lerp import permuted_lerp

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def can() -> None:
    return None


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_told", set())


def test_backends_tells_what_works_and_why_the_rest_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = backends()
    assert found.available[:2] == ("torch", "native")
    assert set(found.available) | set(found.reasons) == {"torch", "native", "triton"}
    monkeypatch.setattr(_backend, "_no_triton", lambda: "no GPU")
    text = str(backends()).splitlines()
    assert text[:4] == [
        "torch   yes",
        f"native  yes: {found.core}",
        "triton  no: no GPU",
        f"cpu     {torch.get_num_threads()} threads",
    ]


def test_explicit_choices_are_obeyed_or_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {"native": can, "triton": can}
    assert choose("torch", "op", CPU, forms) == "torch"
    assert choose("native", "op", CPU, forms) == "native"
    with pytest.raises(RuntimeError, match=r"backend 'native' cannot run op here: it works on the CPU, .* on cuda"):
        choose("native", "op", CUDA, forms)
    with pytest.raises(RuntimeError, match="backend 'native' cannot run op here: op has no such form"):
        choose("native", "op", CPU, {"triton": can})
    with pytest.raises(RuntimeError, match="backend 'native' cannot run op here: too odd"):
        choose("native", "op", CPU, {"native": lambda: "too odd"})
    monkeypatch.setattr(_backend, "_no_triton", lambda: None)
    monkeypatch.setattr(_backend, "interpreted", lambda: False)
    assert choose("triton", "op", CUDA, forms) == "triton"
    with pytest.raises(RuntimeError, match="it works on a GPU, and the tensors are on cpu"):
        choose("triton", "op", CPU, forms)


def test_auto_takes_the_fastest_and_says_once_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("auto", "op", CPU, {"native": can, "triton": can}) == "native"
        # Nothing faster exists for the CPU: nothing to tell.
        assert choose("auto", "op", CPU, {"triton": can}) == "torch"
    monkeypatch.setattr(_backend, "_no_triton", lambda: "there is no Triton")
    with pytest.warns(RuntimeWarning, match="op on cuda runs in plain torch: there is no Triton"):
        assert choose("auto", "op", CUDA, {"triton": can}) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("auto", "op", CUDA, {"triton": can}) == "torch"


def test_bad_names_are_refused() -> None:
    with pytest.raises(TypeError, match="backend must be one of"):
        choose(3, "op", CPU)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'cuda'"):
        choose("cuda", "op", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "interpreted", lambda: False)
    _backend._no_triton.cache_clear()
    with pytest.raises(RuntimeError, match=r"backend 'triton' cannot run permuted_lerp here: (there is no GPU|Triton)"):
        permuted_lerp([torch.ones(2)], [1.0], [(None,)], backend="triton")
    _backend._no_triton.cache_clear()


def test_switches_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        monkeypatch.setenv("LMC_FAST_AUTOTUNE", value)
        assert _backend.interpreted() is expected and _backend.autotuning() is expected


def test_nothing_is_tuned_in_tests_or_kept() -> None:
    assert not _backend.autotuning()
    assert _backend.cache_folder() == Path(os.devnull)


def test_what_is_kept_is_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for ours, users, expected in (
        ("/here", "/caches", "/here"),
        ("", "/caches", "/caches/lmc_fast"),
        ("", "", "/home/someone/.cache/lmc_fast"),
    ):
        monkeypatch.setenv("LMC_FAST_CACHE", ours)
        monkeypatch.setenv("XDG_CACHE_HOME", users)
        assert _backend.cache_folder() == Path(expected)


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("LMC_FAST_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", homeless)
    assert _backend.cache_folder() is None
