"""Both sides of a gain's product, against the plain gather, cast and reshape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.operands import Operands, Sums
from lmc_fast.ops.gain_matrix import Term, units_first

# Shape, and the dimensions that run over the units: first, last, in the middle, apart, all, none beside them.
CASES = {
    "rows": ((7, 12), (0,)),
    "columns": ((7, 12), (1,)),
    "heads": ((5, 2, 3, 4), (1, 2)),
    "values of heads": ((5, 2, 3, 4), (1, 3)),
    "a bias": ((9,), (0,)),
    "columns, as a view has them": ((7, 12, 1, 1), (1,)),
    "one head": ((5, 1, 1, 4), (1, 3)),
    "no entries": ((3, 0), (0,)),
}


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def term_of(shape: tuple[int, ...], units: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Term:
    generator = torch.Generator().manual_seed(seed)
    gathers = tuple(
        None if dim in units else torch.randperm(size, generator=generator) for dim, size in enumerate(shape)
    )
    return Term(drawn(shape, dtype, seed), drawn(shape, dtype, seed + 1), units, gathers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "units"), CASES.values(), ids=CASES.keys())
def test_sides_are_what_plain_torch_makes(shape: tuple[int, ...], units: tuple[int, ...], dtype: torch.dtype) -> None:
    term, wide = term_of(shape, units, dtype), torch.promote_types(dtype, torch.float32)
    b = term.b
    for dim, index in enumerate(term.gathers):
        b = b if index is None else b.index_select(dim, index)
    found = Operands().sides(term, wide)
    for side, wanted in zip(found, (term.a, b), strict=True):
        assert side.dtype == wide
        assert torch.equal(side, units_first(wanted.to(wide), units))


def test_a_part_gathers_fewer_entries_than_there_are() -> None:
    index = torch.tensor([4, 0, 7])
    b = drawn((3, 8), torch.bfloat16, 1)
    term = Term(drawn((3, 3), torch.bfloat16, 0), b, (0,), (None, index))
    assert torch.equal(Operands().sides(term, torch.float32)[1], b.float()[:, index])
    turned = Term(term.a.T, b.T, (1,), (index, None))
    assert torch.equal(Operands().sides(turned, torch.float32)[1], b.float()[:, index])


@pytest.mark.parametrize(("shape", "units"), CASES.values(), ids=CASES.keys())
def test_a_product_reads_both_sides_where_they_lie(shape: tuple[int, ...], units: tuple[int, ...]) -> None:
    for side in Operands().sides(term_of(shape, units, torch.bfloat16), torch.float32):
        assert side.is_contiguous() or side.T.is_contiguous()


def test_entries_stay_in_the_order_that_they_lie_in() -> None:
    for shape, units, turned in (((7, 12, 1), (1,), True), ((7, 12, 1), (0,), False), ((7, 12, 1), (0, 2), False)):
        side = Operands().sides(term_of(shape, units, torch.bfloat16), torch.float32)[0]
        assert side.T.is_contiguous() is turned


def test_memory_is_asked_for_once() -> None:
    operands = Operands()
    first = [side.data_ptr() for side in operands.sides(term_of((8, 32), (0,), torch.bfloat16), torch.float32)]
    assert len(set(first)) == 2
    for shape, units in (((8, 32), (1,)), ((4, 5), (0,)), ((3, 2, 4), (1,))):
        again = operands.sides(term_of(shape, units, torch.bfloat16, seed=3), torch.float32)
        assert [side.data_ptr() for side in again] == first


def test_a_larger_term_gets_more_and_what_it_held_is_let_go() -> None:
    operands = Operands()
    operands.sides(term_of((8, 32), (0,), torch.bfloat16), torch.float32)
    operands.sides(term_of((8, 64), (0,), torch.bfloat16), torch.float32)
    assert sorted(held.numel() for held in operands._held.values()) == [512, 512]


def test_what_needs_no_cast_is_not_copied() -> None:
    term = term_of((7, 12), (1,), torch.float32)
    a, b = Operands().sides(term, torch.float32)
    assert a.data_ptr() == term.a.data_ptr()
    assert b.data_ptr() != term.b.data_ptr()


def test_sums_come_in_memory_that_was_taken_back() -> None:
    sums, cpu = Sums(come_back=True), torch.device("cpu")
    first, second = (sums.empty(count, torch.float32, cpu) for count in (4, 9))
    assert first.shape == (4, 4)
    for given in (first, second):
        given.fill_(torch.nan)
    sums.take_back()
    small = sums.empty(3, torch.float32, cpu).zero_()
    assert small.data_ptr() == second.data_ptr()
    # While it is out, nothing else lies there.
    other = sums.empty(3, torch.float32, cpu).fill_(1.0)
    assert not small.any()
    assert other.data_ptr() != small.data_ptr()
    sums.take_back()
    assert sums.empty(9, torch.float32, cpu).data_ptr() == second.data_ptr()


def test_sums_of_another_dtype_and_larger_ones_are_new() -> None:
    sums, cpu = Sums(come_back=True), torch.device("cpu")
    place = sums.empty(4, torch.float32, cpu).data_ptr()
    sums.take_back()
    assert sums.empty(4, torch.float64, cpu).dtype == torch.float64
    sums.take_back()
    large = sums.empty(20, torch.float32, cpu)
    assert large.shape == (20, 20)
    assert large.data_ptr() != place


def test_sums_that_are_kept_are_never_used_again() -> None:
    sums, cpu = Sums(come_back=False), torch.device("cpu")
    kept = sums.empty(4, torch.float32, cpu).fill_(1.0)
    sums.take_back()
    assert sums.empty(4, torch.float32, cpu).data_ptr() != kept.data_ptr()
    assert kept.all()


def test_a_search_step_by_step_sums_every_gain_in_the_same_memory() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", "r"), "v": ("r", None)})
    a, b = ({"w": drawn((40, 40), torch.float32, s), "v": drawn((40, 40), torch.float32, s + 9)} for s in (0, 1))
    spec = spec.bind(a)
    moved = lmc.Permutations.random(spec, 0)
    room: dict[int | None, list[int]] = {0: [], None: []}
    for size, places in room.items():
        weights = dict.fromkeys(a, 1.0)
        descent = CoordinateDescent(spec, a, b, weights, moved, (), None, room=size)
        # What is small is laid out by columns.
        descent.gains._columns = dict.fromkeys(descent.leaves)
        for name in ("p", "r", "p"):
            gain = descent.gains.gain(name)
            assert gain is not None
            wanted = CoordinateDescent(spec, a, b, weights, moved, (), None).gains.gain(name)
            assert torch.allclose(gain, wanted, atol=1e-4)
            places.append(gain.data_ptr())
            descent.gains.take_back()
    assert len(set(room[0])) == 1
    assert room[None][0] == room[None][2] != room[None][1]


def test_a_gain_of_no_entries_is_nothing() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}).bind({"w": torch.zeros(40, 0)})
    models = [{"w": torch.zeros(40, 0)} for _ in range(2)]
    identity = lmc.Permutations.identity(spec)
    descent = CoordinateDescent(spec, *models, {"w": 1.0}, identity, (), None, room=0)
    descent.gains._columns = {"p": None}
    gain = descent.gains.gain("p")
    assert gain is not None
    assert not gain.any()
