"""Gains that come out the same, whoever has summed what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from torch import Tensor

from lmc_fast import Permutations, PermutationSpec
from lmc_fast.large.parted import PartedGains
from lmc_fast.large.shares import Shares, parts_of, shared_out, tree
from lmc_fast.large.team import Team
from lmc_fast.matching.engine.descent import CoordinateDescent

from . import models


class Desk(Team):
    """One of several that meet at one desk, one after another: the last to come, whose sum it is, finds all there."""

    def __init__(self, rank: int, left: list[Tensor]) -> None:
        super().__init__()
        self.rank, self.left = rank, left

    def summed(
        self, key: str, mine: Tensor | None, ranks: Sequence[int], home: int, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor | None:
        if mine is not None:
            assert mine.shape == tuple(shape)
            assert mine.dtype == dtype
            self.left.append(mine)
        return sum(self.left[1:], self.left[0]) if self.rank == home else None


def descent(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> CoordinateDescent:
    a, b = ({name: scale * x for name, x in models.weights(seed, dtype).items()} for seed in (0, 1))
    spec = models.spec().bind(a)
    return CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), Permutations.random(spec, 3), (), None, room=0)


def shares_of(search: CoordinateDescent, ranks: int) -> Shares:
    return shared_out(parts_of(search.spec, search.a), search.a, ranks)


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_gain_over_parts_is_the_gain(dtype: torch.dtype, scale: float) -> None:
    search = descent(dtype, scale)
    parted = PartedGains(search, shares_of(search, 1), Team())
    for group in search.leaves:
        wanted, found = search.gains.gain(group), parted.gain(group)
        assert (wanted is None) == (found is None)
        if wanted is not None and found is not None:
            assert found.dtype == wanted.dtype
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("group", ["D", "F0", "kv1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_order_in_which_ranks_add_is_of_no_account(group: str, ranks: int, dtype: torch.dtype) -> None:
    # Sums of a few float32 numbers are exact in float64 as they are; of float64 they are not.
    search = descent(dtype)
    alone = PartedGains(search, shares_of(search, 1), Team()).gain(group)
    shares = shares_of(search, ranks)
    leaves = search.leaves[group]
    home, *others = shares.ranks_of(leaf.parameter for leaf in leaves)
    for order in permutations(others):
        left: list[Tensor] = []
        for rank in (*order, home):
            gains = PartedGains(search, shares, Desk(rank, left))
            gains.bring("step", {group: leaves}, [home, *others], home)
        found = gains.gain(group)
        assert found is not None
        assert alone is not None
        assert torch.equal(found, alone)
        # It was for one time.
        assert not gains._ready


def test_a_gain_that_one_rank_has_is_sent_as_it_is() -> None:
    search = descent()
    shares = shares_of(search, 2)
    leaves = [leaf for leaf in search.leaves["D"] if leaf.parameter == "embed.weight"]
    owner = shares.rank_of("embed.weight")
    left: list[Tensor] = []
    for rank in (owner, 1 - owner):
        gains = PartedGains(search, shares, Desk(rank, left))
        gains.bring("step", {"D": leaves}, [0, 1], 1 - owner)
    assert torch.equal(gains.gain_of(leaves), PartedGains(search, shares, Team()).gain_of(leaves))
    assert left[0].dtype == torch.float32


def test_groups_come_with_their_tensors() -> None:
    a = models.weights(0)
    parts = parts_of(models.spec().bind(a), a)
    assert sorted(name for part in parts for name in part) == sorted(a)
    part = {name: k for k, some in enumerate(parts) for name in some}
    for k in range(models.LAYERS):
        assert len({part[f"{k}.{name}"] for name in ("up.weight", "up.bias", "down.weight")}) == 1
        assert len({part[f"{k}.{name}.weight"] for name in "qkvo"}) == 1
    # The stream would be everything.
    assert len(parts) > 4
    # Other names of one tensor are left to whoever has it.
    assert "head.weight" not in {name for some in parts_of(models.spec().bind(a), a, ["head.weight"]) for name in some}


def test_what_is_small_goes_together() -> None:
    shapes = {f"{k}": torch.empty(4, device="meta") for k in range(40)} | {"large": torch.empty(10_000, device="meta")}
    spec = PermutationSpec.from_axes(dict.fromkeys(shapes, (None,))).bind(shapes)
    parts = parts_of(spec, shapes)
    assert ["large"] in parts
    assert [len(part) for part in parts if part != ["large"]] == [9, 9, 9, 9, 4]


def test_parts_are_dealt_out_by_bytes() -> None:
    shapes = {name: torch.empty(size, device="meta") for name, size in zip("abcdef", (5, 4, 3, 3, 2, 1), strict=True)}
    shares = shared_out([[name] for name in shapes], shapes, 3)
    held = [0, 0, 0]
    for name, shape in shapes.items():
        held[shares.rank_of(name)] += shape.nbytes
    assert held == [24, 24, 24]
    assert shares.ranks_of("ab") == [0, 1]
    assert shares.ranks_of("fb") == [1, 0]
    assert shares.rank_of("unheard of") == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 64])
def test_all_of_a_tree_reach_its_root(count: int) -> None:
    home, ranks = count // 2, range(count)
    above = {rank: tree(home, ranks, rank)[1] for rank in ranks}
    assert above[home] is None
    for rank in ranks:
        below = tree(home, ranks, rank)[0]
        assert [child for child in ranks if above[child] == rank] == sorted(below)
        assert len(below) <= (count - 1).bit_length()
        steps, at = 0, rank
        while (upper := above[at]) is not None:
            at, steps = upper, steps + 1
        assert at == home
        assert steps <= (count - 1).bit_length()
