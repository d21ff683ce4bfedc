"""How interpolation's kernels see a model's parts, and which indices they look at."""

from __future__ import annotations

import gc
import weakref
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor

from lmc_fast.ops.permuted_lerp import naive, triton_tables
from lmc_fast.ops.permuted_lerp.triton_plan import EACH, HEAD, Launch, planned

Index = tuple[Tensor | None, ...]


def plan_of(
    tensors: list[list[Tensor]], gathers: list[list[Index]], most_width: int = 64
) -> tuple[tuple[Launch, ...], tuple[int, ...], list[Tensor]]:
    """The plan, and the gathers by their numbers."""
    each = list(chain.from_iterable(chain.from_iterable(gathers)))
    distinct = {id(one): one for one in each if one is not None}
    numbers = {name: place + 1 for place, name in enumerate(distinct)}
    firsts = [part[0] for part in tensors]
    launches, others = planned(
        tuple(first.shape for first in firsts),
        tuple(tensor.stride() for part in tensors for tensor in part),
        tuple(first.dtype for first in firsts),
        tuple(0 if one is None else numbers[id(one)] for one in each),
        bytes([1] * len(tensors)),
        len(tensors[0]),
        1,
        most_width,
    )
    return launches, others, list(distinct.values())


def read(launch: Launch, place: int, tensors: list[Tensor], gathers: list[Tensor]) -> list[Tensor]:
    """A part's sources as a kernel reads them: rows by columns, from a table of sizes and strides."""
    row = launch.table[place]
    n1, rows, m1, columns = (int(size) for size in row[:HEAD])
    sizes = (rows // n1, n1, columns // m1, m1)
    found = []
    for m, tensor in enumerate(tensors):
        steps = row[HEAD + EACH * m + 1 : HEAD + EACH * m + 5]
        offset = torch.zeros((), dtype=torch.int64)
        for size, step, number in zip(sizes, steps, launch.gathers[place, m], strict=True):
            index = torch.arange(size) if number == 0 else gathers[number - 1]
            offset = offset[..., None] + index * int(step)
        flat = torch.as_strided(tensor, (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
        found.append(flat[offset.reshape(-1) + tensor.storage_offset()])
    return found


PARTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "vector": ((20,), (0,), 64),
    "matrix": ((6, 20), (0, 1), 64),
    "matrix, columns alone": ((6, 20), (1,), 64),
    "matrix, rows alone": ((6, 20), (0,), 0),
    "convolution": ((6, 5, 3, 3), (0, 1), 64),
    "convolution, outputs alone": ((6, 5, 3, 3), (0,), 0),
    "long rows": ((2, 70), (1,), 0),
    "a long kernel": ((3, 4, 300), (0, 1), 0),
    "rows of many": ((2, 3, 4, 5), (0, 2, 3), 0),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_read_as_they_are_permuted(name: str) -> None:
    shape, gathered, width = PARTS[name]
    tensors = [[torch.randn(shape) for _ in range(2)]]
    index: Index = tuple(torch.randperm(size) if d in gathered else None for d, size in enumerate(shape))
    gathers: list[list[Index]] = [[(None,) * len(shape), index]]
    (launch,), others, distinct = plan_of(tensors, gathers)
    assert others == () and launch.width == width and launch.parts.tolist() == [0]
    for m, found in enumerate(read(launch, 0, tensors[0], distinct)):
        (expected,) = naive.permuted_lerp_many([[tensors[0][m]]], [[1.0]], [[gathers[0][m]]])[0]
        assert torch.equal(found, expected.reshape(-1))


def test_rows_that_lie_apart_are_read_entry_by_entry() -> None:
    wide = torch.randn(6, 40)[:, ::2]
    index = torch.randperm(20)
    (launch,), _, distinct = plan_of([[wide, wide]], [[(None, None), (None, index)]])
    assert launch.width == 0
    assert torch.equal(read(launch, 0, [wide, wide], distinct)[1], wide[:, index].reshape(-1))


def test_parts_are_told_apart_by_width_dtype_and_places() -> None:
    order, short = torch.randperm(32), torch.randperm(5)
    tensors = [
        [torch.randn(4, 32)] * 2,
        [torch.randn(4, 5)] * 2,
        [torch.randn(4, 32).double()] * 2,
        [torch.ones(0)] * 2,
    ]
    gathers: list[list[Index]] = [[(None, one)] * 2 for one in (order, short, order)]
    launches, others, _ = plan_of(tensors, [*gathers, [(None,)] * 2])
    found = {(launch.dtype, launch.aligned, *launch.parts.tolist()) for launch in launches}
    assert found == {(torch.float32, True, 0), (torch.float32, False, 1), (torch.float64, True, 2)}
    assert others == ()


def test_more_dimensions_than_a_kernel_holds_are_told() -> None:
    shape = (2, 3, 2, 3, 2)
    index = tuple(torch.randperm(size) for size in shape)
    launches, others, _ = plan_of([[torch.randn(shape)] * 2], [[index, index]])
    assert launches == () and others == (0,)


def test_tables_hold_addresses_and_tiles_are_kept() -> None:
    tensors = [[torch.randn(4, 32)] * 2, [torch.randn(9, 32)] * 2]
    order = torch.randperm(32)
    (launch,), _, _ = plan_of(tensors, [[(None, None), (None, order)]] * 2)
    data, out = np.array([[1, 2], [3, 4]]) * 1000, np.array([[5, 6]]) * 1000
    table = launch.filled(data, out, np.array([0, 77]))
    assert table[:, HEAD].tolist() == [1000, 3000] and table[:, HEAD + EACH].tolist() == [2000, 4000]
    assert table[:, -1].tolist() == [5000, 6000] and (launch.table[:, -1] == 0).all()
    assert table[0, HEAD + 5 : HEAD + 9].tolist() == [0] * 4
    assert table[0, HEAD + EACH + 5 : HEAD + EACH + 9].tolist() == [0, 0, 0, 77]
    parts, first = launch.tiles(torch.device("cpu"), 4, 32)
    assert parts.tolist() == [0, 1, 1, 1] and first.tolist() == [0, 1]
    assert launch.tiles(torch.device("cpu"), 4, 32)[0] is parts


def test_indices_are_looked_at_again_when_they_were_written_to() -> None:
    index = torch.randperm(9)
    (known,) = triton_tables.known_indices([index])
    assert known.run(index) is index
    assert known.short.dtype == torch.int32 and torch.equal(known.short.long(), index)
    assert triton_tables.known_indices([index])[0] is known
    index[0] = 9
    with pytest.raises(IndexError, match="gathers must hold indices of their dimensions"):
        triton_tables.known_indices([index])
    index[0] = -1
    with pytest.raises(IndexError):
        triton_tables.known_indices([torch.arange(3), index])


def test_indices_that_lie_apart_are_copied_and_those_of_inference_mode_too() -> None:
    apart = torch.arange(10).flip(0).repeat_interleave(2)[::2]
    for _ in range(2):
        (known,) = triton_tables.known_indices([apart])
        run = known.run(apart)
        assert run.is_contiguous() and torch.equal(run, apart) and torch.equal(known.short.long(), apart)
    with torch.inference_mode():
        made = torch.randperm(5)
        first, second = (triton_tables.known_indices([made])[0].short for _ in range(2))
    # It does not tell whether it was written to: looked at each time.
    assert first is not second and torch.equal(first, second)


@pytest.mark.parametrize("inside", [1, 3])
def test_places_of_a_row_are_those_of_the_runs_that_are_gathered(inside: int) -> None:
    index = torch.tensor([2, 0, 1, 3])
    (known,) = triton_tables.known_indices([index])
    places = known.of_row(inside, torch.int16)
    row = torch.arange(4 * inside)
    assert places.dtype == torch.int16
    assert torch.equal(row[places.long()], row.view(4, inside)[index].flatten())
    assert known.of_row(inside, torch.int16) is places
    assert known.of_row(inside, torch.int32).dtype == torch.int32


def test_indices_live_no_longer_than_their_owner_holds_them() -> None:
    index = torch.randperm(9)
    triton_tables.known_indices([index])
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None
