"""How the parts of a model are laid out for interpolation's kernels: the same at every call with the same shapes.

A part is seen as rows by columns, at most two dimensions each after neighbours that nothing tells apart are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .triton_tables import sent

__all__ = ["EACH", "HEAD", "MOST_DIMS", "Launch", "planned"]

# Fields of a part before those of its sources: second row dimension, rows, second column dimension, columns.
# Of a source: address, four strides, four addresses of gathers.
HEAD, EACH = 4, 9
# Dimensions that a part may have once those which nothing tells apart are joined.
MOST_DIMS = 4
# From here on the last dimension makes good tiles by itself.
WIDE_ENOUGH = 256
# The shortest row that has a kernel of its own: narrower ones are many to a tile.
LEAST_WIDTH = 64

# Size, strides and gathers of one dimension of all sources; gathers by number, from 1 on, 0 for none.
_Dim = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Seen:
    """A part as a kernel sees it: sizes of four dimensions; strides and gathers of every source."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    gathers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Launch:
    """Parts that one launch takes.

    Attributes:
        dtype, aligned, wide: of all of them: every row of every tensor starts on 16 entries and 16 bytes; columns
            that take 64 bits to count.
        width: of rows that go through shared memory, padded; 0: single entries are read.
        parts: which they are.
        table: int64 [parts, HEAD + EACH * models + outputs], but for addresses.
        gathers: [parts, models, 4] numbers of gathers, 0 for none.
        rows: how rows that go through shared memory are gathered: number of the gather, entries of the runs that it
            gathers. With `row_of`, [parts, models]: which of these, from 1 on, 0 for none.
    """

    dtype: torch.dtype
    aligned: bool
    wide: bool
    width: int
    parts: np.ndarray
    table: np.ndarray
    gathers: np.ndarray
    rows: tuple[tuple[int, int], ...] = ()
    row_of: np.ndarray | None = None
    _tiles: dict[tuple[object, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def filled(
        self, data: np.ndarray, out: np.ndarray, gathers: np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """The table with the addresses of all parts' tensors [parts, models], results [outputs, parts] and gathers.

        rows: of the places of `rows`, behind a zero.
        """
        table: np.ndarray = self.table.copy()
        models = data.shape[1]
        for m in range(models):
            first = HEAD + EACH * m
            table[:, first] = data[self.parts, m]
            table[:, first + 5 : first + 9] = gathers[self.gathers[:, m]]
            if rows is not None and self.row_of is not None:
                table[:, first + 7] = rows[self.row_of[:, m]]
                table[:, first + 8] = 0
        table[:, HEAD + EACH * models :] = out[:, self.parts].T
        return table

    def tiles(self, device: torch.device, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The part of each tile of so many entries, and the first tile of each part; kept on the device."""
        key = device, rows, columns
        if key not in self._tiles:
            count = -(-self.table[:, 1] // rows) * self.across(columns)
            flat = np.concatenate([np.repeat(np.arange(len(count)), count), np.cumsum(count) - count])
            parts, first = torch.split(sent(device, flat), [int(count.sum()), len(count)])
            self._tiles[key] = parts, first
        return self._tiles[key]

    def across(self, columns: int) -> np.ndarray:
        """How many tiles of so many columns lie side by side in each part."""
        found: np.ndarray = (self.table[:, 3] + columns - 1) // columns
        return found


@lru_cache(maxsize=16)
def planned(
    shapes: tuple[torch.Size, ...],
    strides: tuple[tuple[int, ...], ...],
    dtypes: tuple[torch.dtype, ...],
    gathers: tuple[int, ...],
    at_16_bytes: bytes,
    models: int,
    outputs: int,
    most_width: int,
) -> tuple[tuple[Launch, ...], tuple[int, ...]]:
    """The launches for parts of these kinds, and the parts that have too many dimensions for any.

    Args:
        shapes, dtypes: of every part.
        strides: of every part's tensors, part by part.
        gathers: of every part's tensors and each of their dimensions, by number from 1 on; 0: none.
        at_16_bytes: of every part whether all of its tensors and results start there.
        models, outputs: how many tensors a part has, and how many results.
        most_width: of rows that go through shared memory, at most; 0: none does.
    """
    found: dict[tuple[torch.dtype, bool, bool, int], list[tuple[int, _Seen]]] = {}
    others, place = [], 0
    for p, shape in enumerate(shapes):
        indices = [gathers[place + m * len(shape) : place + (m + 1) * len(shape)] for m in range(models)]
        place += models * len(shape)
        if 0 in shape:
            continue
        dims = _joined(shape, strides[p * models : (p + 1) * models], indices)
        if len(dims) > MOST_DIMS:
            others.append(p)
            continue
        seen, width = _seen_by_rows(dims, most_width), 0
        if seen is None:
            seen = _seen(dims)
        else:
            width = max(LEAST_WIDTH, 1 << (seen.sizes[2] * seen.sizes[3] - 1).bit_length())
        wide = seen.sizes[2] * seen.sizes[3] >= 2**31
        key = dtypes[p], bool(at_16_bytes[p]) and _aligned(seen), wide, width
        found.setdefault(key, []).append((p, seen))
    return tuple(_launch(*key, parts, models, outputs) for key, parts in found.items()), tuple(others)


def _launch(
    dtype: torch.dtype,
    aligned: bool,
    wide: bool,
    width: int,
    found: Sequence[tuple[int, _Seen]],
    models: int,
    outputs: int,
) -> Launch:
    table = np.zeros((len(found), HEAD + EACH * models + outputs), dtype=np.int64)
    for row, (_, seen) in zip(table, found, strict=True):
        n0, n1, m0, m1 = seen.sizes
        row[:HEAD] = n1, n0 * n1, m1, m0 * m1
        for m, steps in enumerate(seen.strides):
            row[HEAD + EACH * m + 1 : HEAD + EACH * m + 5] = steps
    gathers = np.array([seen.gathers for _, seen in found])
    kinds: dict[tuple[int, int], int] = {}
    row_of = np.zeros((len(found), models), dtype=np.int64)
    if width:
        for p, (_, seen) in enumerate(found):
            # The one before the last axis, where that is not gathered, or the last.
            for m, (_, _, outer, inner) in enumerate(seen.gathers):
                if outer or inner:
                    row_of[p, m] = kinds.setdefault((outer, seen.sizes[3]) if outer else (inner, 1), len(kinds) + 1)
    places = np.array([p for p, _ in found])
    return Launch(dtype, aligned, wide, width, places, table, gathers, tuple(kinds), row_of)


def _seen_by_rows(dims: list[_Dim], most_width: int) -> _Seen | None:
    """A part whose rows go through shared memory, if it is one: the last axis, or the one before it, is gathered."""
    taken = 1 if any(dims[-1][2]) else 2
    if len(dims) < taken or not any(dims[-taken][2]) or len(dims) - taken > 2:
        return None
    seen = _spread(dims, taken)
    _, _, outer, inner = seen.sizes
    if outer * inner > most_width or (taken == 2 and inner >= WIDE_ENOUGH):
        return None
    # Rows in one run.
    together = all(steps[3] == 1 and (outer == 1 or steps[2] == inner) for steps in seen.strides)
    return seen if together else None


def _seen(dims: list[_Dim]) -> _Seen:
    """Spread over two dimensions of rows and two of columns."""
    return _spread(dims, 2 if len(dims) == MOST_DIMS or (len(dims) > 1 and dims[-1][0] < WIDE_ENOUGH) else 1)


def _joined(shape: Sequence[int], strides: Sequence[Sequence[int]], gathers: Sequence[Sequence[int]]) -> list[_Dim]:
    """Size, strides and gathers of every dimension, those that nothing tells apart joined."""
    dims: list[_Dim] = []
    for d, size in enumerate(shape):
        if size == 1:
            continue
        steps, indices = tuple(of[d] for of in strides), tuple(of[d] for of in gathers)
        if dims and not any((*dims[-1][2], *indices)) and dims[-1][1] == tuple(size * step for step in steps):
            dims[-1] = (dims[-1][0] * size, steps, indices)
        else:
            dims.append((size, steps, indices))
    return dims or [(1, (1,) * len(strides), (0,) * len(strides))]


def _spread(dims: list[_Dim], taken: int) -> _Seen:
    """Four dimensions, of which the last `taken` are columns."""
    models = len(dims[0][1])
    one: _Dim = (1, (0,) * models, (0,) * models)
    columns, rows = dims[-taken:], dims[:-taken]
    if len(columns) == 1:
        # What comes before a single dimension goes on where it ends.
        size, inner, _ = columns[0]
        columns = [(1, tuple(size * step for step in inner), (0,) * models), *columns]
    laid = [one] * (2 - len(rows)) + rows + columns
    steps = tuple(tuple(entry[1][m] for entry in laid) for m in range(models))
    return _Seen(
        tuple(size for size, _, _ in laid), steps, tuple(tuple(entry[2][m] for entry in laid) for m in range(models))
    )


def _aligned(seen: _Seen) -> bool:
    """Whether every row starts on 16 entries."""
    columns = seen.sizes[2] * seen.sizes[3]
    return columns % 16 == 0 and all(step % 16 == 0 for steps in seen.strides for step in steps[:2])
