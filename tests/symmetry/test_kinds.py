"""Kinds of groups against plain formulas: what is best, how elements act, compose and are undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lmc_fast.symmetry.kinds import KINDS

NAMES = list(KINDS)


def gain_of(a: Tensor, b: Tensor) -> Tensor:
    """[..., units, entries, k] of two models: [..., units, entries, units, entries], the plain formula."""
    return torch.einsum("...iek,...jfk->...iejf", a, b)


def drawn(name: str, units: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    """An element for each of some owner units, and entries of b: [rows, units, entries, 7]."""
    kind, generator = KINDS[name], torch.Generator().manual_seed(units)
    element = kind.random((rows, units), np.random.default_rng(units))
    return element, torch.randn(rows, units, kind.entries, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("units", [1, 2, 9])
@pytest.mark.parametrize("name", NAMES)
def test_the_best_element_is_the_one_that_was_planted(name: str, units: int) -> None:
    kind = KINDS[name]
    element, b = drawn(name, units)
    a = kind.act(element, b)
    found, value = kind.best(gain_of(a, b))
    # Rotations of more units than columns are known only where b says something.
    assert torch.allclose(kind.act(found, b), a, atol=1e-7)
    assert torch.allclose(value, (a * a).sum((1, 2, 3)))
    assert torch.allclose(kind.value(gain_of(a, b), found), value)
    kind.checked("element", found, (3, units))


@pytest.mark.parametrize("name", NAMES)
def test_no_random_element_is_worth_more_than_the_best(name: str) -> None:
    kind = KINDS[name]
    _, b = drawn(name, 5)
    a = torch.randn(b.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gain = gain_of(a, b)
    value = kind.best(gain)[1]
    for seed in range(40):
        element = kind.random((3, 5), np.random.default_rng(seed))
        plain = (a * kind.act(element, b)).sum((1, 2, 3))
        assert torch.allclose(kind.value(gain, element), plain)
        assert bool((plain <= value + 1e-9).all())


@pytest.mark.parametrize("name", NAMES)
def test_elements_compose_and_are_undone(name: str) -> None:
    kind = KINDS[name]
    first, b = drawn(name, 6)
    second = kind.random((3, 6), np.random.default_rng(99))
    both = kind.act(second, kind.act(first, b))
    assert torch.allclose(kind.act(kind.after(second, first), b), both)
    assert torch.allclose(kind.act(kind.inverse(first), kind.act(first, b)), b)
    assert torch.equal(kind.act(kind.identity((3, 6)), b), b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_are_kept(name: str, dtype: torch.dtype) -> None:
    element, b = drawn(name, 4)
    exact = KINDS[name].act(element, b.to(dtype).double())
    found = KINDS[name].act(element, b.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.double(), exact, atol=8 * torch.finfo(dtype).eps)


def test_a_rotation_that_keeps_ones_keeps_means() -> None:
    element, b = drawn("orthogonal_keeping_ones", 8)
    moved = KINDS["orthogonal_keeping_ones"].act(element, b)
    assert torch.allclose(moved.mean(1), b.mean(1))
    assert not torch.allclose(moved, b, atol=0.1)


def test_signs_turn_signs() -> None:
    x = torch.tensor([[[1.0]], [[2.0]]])  # [units, entries, k]
    assert KINDS["signed"].act(torch.tensor([1, -1]), x).flatten().tolist() == [2.0, -1.0]


def test_dead_directions_stay_where_they_are() -> None:
    gain = torch.zeros(4, 4, dtype=torch.float64)
    gain[0, 1] = gain[1, 0] = 1.0
    turn, value = KINDS["orthogonal"].best(gain[:, None, :, None])
    expected = torch.eye(4, dtype=torch.float64)
    expected[:2, :2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(turn, expected, atol=1e-9)
    assert math.isclose(float(value), 2.0)


@pytest.mark.parametrize(
    ("name", "element", "says"),
    [
        ("permutation", [0, 0, 1], "once"),
        ("permutation", [0.0, 1.0, 2.0], "integers"),
        ("signed", [0, -1, 2], "once"),
        ("signed", ["a", "b", "c"], "integers"),
        ("signed", [0, 1], "shape"),
        ("orthogonal", np.ones((3, 3)), "orthogonal"),
        ("orthogonal", np.eye(2), "shape"),
        ("orthogonal", np.full((3, 3), np.nan), "finite"),
        ("orthogonal", np.eye(3, dtype=np.int64), "floating"),
        ("orthogonal", "turn", "floating"),
        ("orthogonal_keeping_ones", np.diag([1.0, 1.0, -1.0]), "ones"),
        ("phases", np.ones((3, 2)), "cos"),
    ],
)
def test_what_is_no_element_is_refused(name: str, element: object, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        KINDS[name].checked("this_one", element, (3,))
    assert "this_one" in str(caught.value)
