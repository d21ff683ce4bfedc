"""Inner products of many pairs in one call: small and large, ordinary or not, each as it is alone and in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.permuted_dot import overlap, overlaps, permuted_dot, permuted_dots
from lmc_fast.ops.permuted_dot.op import HELD

Item = tuple[Tensor, Tensor, tuple[Tensor | None, ...]]


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


def items(kinds: str) -> list[Item]:
    torch.manual_seed(0)
    p, q = torch.randperm(5), torch.randperm(6)
    # Which fills a call.
    large = HELD // 5 + 1
    found: list[Item] = [
        (*drawn(5, 6), (p, q)),
        (*drawn(5, large), (p, None)),
        (*drawn(6), (q,)),
        (*drawn(5, 6, dtype=torch.bfloat16), (None, q)),
        (*drawn(), ()),
    ]
    if kinds != "ordinary":
        a, b = drawn(6, 5)
        found.insert(1, (a.T, b[:, :].T.contiguous(), (p, q)))
        # Of two dtypes, which the core does not take.
        found.insert(3, (drawn(5)[0], drawn(5)[0].double(), (p,)))
        found.append((*drawn(0, 6), (None, q)))
    return found


@pytest.mark.parametrize("kinds", ["ordinary", "odd ones among them"])
def test_each_is_what_it_is_alone(kinds: str) -> None:
    given = items(kinds)
    assert permuted_dots(iter(given)) == [permuted_dot(*one) for one in given]
    plain = [permuted_dot(*one, backend="torch") for one in given]
    assert permuted_dots(given) == pytest.approx(plain, rel=1e-6, abs=1e-6)
    pairs = [(a, b) for a, b, _ in given]
    assert overlaps(iter(pairs)) == [overlap(*pair) for pair in pairs]


def test_nothing_is_nothing() -> None:
    assert permuted_dots([]) == [] and overlaps([]) == []


def test_what_an_index_lacks_is_told_of_small_ones_too() -> None:
    a, b = drawn(5)
    with pytest.raises(IndexError):
        permuted_dots([(a, b, (torch.full((5,), 7),)), (a, b, (None,))])
