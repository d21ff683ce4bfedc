"""Random calls of the native core through the package's own functions, with tensors that are out to break it.

``python -m tests.fuzz.calls --calls 20000 --seed 0`` prints how many calls were legal, and what the others were refused
with; it fails where a legal call gives another result than the plain one, or where anything else than a TypeError, a
ValueError or an IndexError is raised. Made to be run with a core built under AddressSanitizer (`tests/test_fuzz.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast.assignment.candidates import Candidates
from lmc_fast.ops.contraction import naive as plain_contraction
from lmc_fast.ops.contraction import over_others, over_units
from lmc_fast.ops.permuted_dot import naive as plain_dot
from lmc_fast.ops.permuted_dot import overlap, permuted_dot
from lmc_fast.ops.permuted_lerp import naive as plain_lerp
from lmc_fast.ops.permuted_lerp import permuted_lerp, permuted_lerp_many

Random = np.random.Generator
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = (0, 1, 2, 3, 5, 8, 17, 33, 64, 130, 257)
REFUSALS = (TypeError, ValueError, IndexError)
# More than any machine has: what asks for it fails at once.
HUGE = 1 << 40


def chance(rng: Random, share: float) -> bool:
    return bool(rng.random() < share)


def pick(rng: Random, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


# Tensors.


def filled(rng: Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Numbers of few digits, in memory laid out in one of many ways; every entry lies where it should."""
    values = torch.tensor(np.asarray(rng.integers(-8, 9, shape), np.float64)).div(4).to(dtype)
    way = rng.integers(7)
    if way == 0 and values.ndim > 1:
        order = [int(d) for d in rng.permutation(values.ndim)]
        back = [order.index(d) for d in range(values.ndim)]
        return values.permute(order).contiguous().permute(back)
    if way == 1:
        wide = torch.full((*shape[:-1], 2 * shape[-1] + 1) if shape else (3,), 77.0).to(dtype)
        place = wide[..., 1::2] if shape else wide[1]
        place.copy_(values)
        return place
    if way == 2:
        room = torch.full((values.numel() + 5,), 77.0).to(dtype)
        place = room[3 : 3 + values.numel()].view(shape)
        place.copy_(values)
        return place
    if way == 3 and values.ndim > 1:
        return values[:1].expand(shape) if shape[0] else values
    if way == 4 and values.ndim and dtype in (torch.float32, torch.float64):
        kind = torch.complex64 if dtype == torch.float32 else torch.complex128
        return torch.complex(torch.zeros_like(values), -values).to(kind).conj().imag
    if way == 5:
        return torch.nn.Parameter(values, requires_grad=chance(rng, 0.2))
    return values


def hostile(rng: Random, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Something in a tensor's place that must be refused, or that happens to be fine: never to be read blindly."""
    tensor = filled(rng, shape, dtype)
    way = rng.integers(14)
    if way == 0:
        tensor = tensor.detach().clone()
        tensor.untyped_storage().resize_(0)
    elif way == 1:
        tensor = tensor.detach().clone()
        held = tensor.untyped_storage().nbytes()
        tensor.untyped_storage().resize_(int(rng.integers(held + 1)))
    elif way == 2:
        tensor = torch.empty(shape, dtype=dtype, device="meta")
    elif way == 3:
        tensor = torch.zeros(shape).to_sparse() if shape else torch.zeros(2).to_sparse()
    elif way == 4:
        tensor = tensor.detach().to(pick(rng, (torch.int32, torch.complex64, torch.float8_e4m3fn, torch.bool)))
    elif way == 5:
        tensor = torch.nested.nested_tensor([torch.zeros(2, 3)])
    elif way == 6:
        from torch.testing._internal.two_tensor import TwoTensor

        tensor = TwoTensor(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
    elif way == 7:
        return pick(rng, (None, 3, "w", [1.0, 2.0], np.zeros(shape)))
    elif way == 8:
        count = max(1, int(np.prod(shape)))
        raw = bytearray(count * dtype.itemsize + 1)
        tensor = torch.frombuffer(raw, dtype=dtype, offset=1, count=count)
        tensor = tensor.reshape(shape) if int(np.prod(shape)) else tensor
    elif way == 9:
        tensor = filled(rng, (*shape, 2), dtype)
    elif way == 10:
        tensor = filled(rng, tuple(size + 1 for size in shape), dtype)
    elif way == 11:
        # The storage shrinks under a view that starts behind its beginning.
        room = torch.zeros(2 * max(1, int(np.prod(shape))), dtype=dtype)
        tensor = room[room.numel() // 2 :][: int(np.prod(shape))].view(shape)
        room.untyped_storage().resize_(room.untyped_storage().nbytes() // 2)
    elif way == 12:
        tensor = torch.zeros(1, dtype=dtype).expand(HUGE, *shape[1:]) if shape else tensor
    return tensor


def tensor_like(rng: Random, shape: tuple[int, ...], dtype: torch.dtype, risk: float) -> Any:
    return hostile(rng, shape, dtype) if chance(rng, risk) else filled(rng, shape, dtype)


def shape_of(rng: Random, dimensions: int) -> tuple[int, ...]:
    return tuple(int(pick(rng, SIZES if dimensions < 3 else SIZES[:7])) for _ in range(dimensions))


def index_of(rng: Random, size: int, risk: float) -> Any:
    if chance(rng, 0.4):
        return None
    index = torch.from_numpy(rng.permutation(size))
    if chance(rng, 0.2):
        index = torch.stack([index, index], 1).reshape(-1)[::2] if size else index
    if not chance(rng, risk):
        return index
    way = rng.integers(6)
    if way == 0 and size:
        index = index.clone()
        index[int(rng.integers(size))] = int(pick(rng, (-1, size, -(2**62), 2**62)))
    elif way == 1:
        index = index.clone()
        index.untyped_storage().resize_(0)
    elif way == 2:
        index = index.int()
    elif way == 3:
        index = torch.arange(size + 1)
    elif way == 4:
        index = torch.empty(size, dtype=torch.int64, device="meta")
    else:
        return pick(rng, ([0] * size, np.arange(size), 0))
    return index


# Each gives what the package says and a function that says what it should have said.
Call = tuple[Callable[[], Any], Callable[[], Any]]


def call_lerp(rng: Random, risk: float) -> Call:
    dtype, shape = pick(rng, FLOATS), shape_of(rng, int(rng.integers(0, 5)))
    models = int(rng.integers(1, 4))
    mixed = chance(rng, 0.1)
    tensors = [tensor_like(rng, shape, pick(rng, FLOATS) if mixed else dtype, risk) for _ in range(models)]
    gathers = [tuple(index_of(rng, size, risk) for size in shape) for _ in range(models)]
    weights = [float(w) for w in rng.choice([0.0, 0.5, -1.0, 0.25], models)]
    out = None
    if chance(rng, 0.3):
        way = rng.integers(4)
        out = filled(rng, shape, dtype).detach() if way else tensors[0]
        if way == 1:
            out = tensor_like(rng, shape, dtype, 0.5)
    return (
        lambda: permuted_lerp(tensors, weights, gathers, out=out, backend="native"),
        lambda: plain_lerp.permuted_lerp([t.detach() for t in tensors], weights, gathers),
    )


def call_lerp_many(rng: Random, risk: float) -> Call:
    parts, models, rows = int(rng.integers(1, 12)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    tensors, gathers = [], []
    for _ in range(parts):
        dtype, shape = pick(rng, FLOATS), shape_of(rng, int(rng.integers(0, 4)))
        tensors.append([tensor_like(rng, shape, dtype, risk / 8) for _ in range(models)])
        gathers.append([tuple(index_of(rng, size, risk / 8) for size in shape) for _ in range(models)])
    weights = [[float(w) for w in rng.choice([0.0, 0.5, -1.0], models)] for _ in range(rows)]
    out = None
    if chance(rng, 0.3):
        # One place twice, or places of their own; none for what no machine could hold.
        like = [part[0] if isinstance(part[0], Tensor) and part[0].numel() < HUGE // 1024 else None for part in tensors]
        out = [[None if one is None else torch.zeros_like(one) for one in like]] * rows
        if chance(rng, 0.5):
            out = [[None if one is None else torch.zeros_like(one) for one in row] for row in out]
    return (
        lambda: permuted_lerp_many(tensors, weights, gathers, out=out, backend="native"),
        lambda: plain_lerp.permuted_lerp_many([[t.detach() for t in part] for part in tensors], weights, gathers),
    )


def call_dot(rng: Random, risk: float) -> Call:
    dtype, shape = pick(rng, FLOATS), shape_of(rng, int(rng.integers(0, 5)))
    a, b = tensor_like(rng, shape, dtype, risk), tensor_like(rng, shape, dtype, risk)
    gathers = [index_of(rng, size, risk) for size in shape]
    if chance(rng, 0.3):
        return lambda: overlap(a, b), lambda: tuple(plain_dot.overlap(a.detach(), b.detach()).tolist())
    return lambda: permuted_dot(a, b, gathers), lambda: float(plain_dot.permuted_dot(a.detach(), b.detach(), gathers))


def call_contraction(rng: Random, risk: float) -> Call:
    dtype, shape = pick(rng, FLOATS), shape_of(rng, 3)
    tensor = tensor_like(rng, shape, dtype, risk)
    units = chance(rng, 0.5)
    size = (shape[1],) if units else (shape[0], shape[2])
    vector = tensor_like(rng, size, torch.float64, risk)
    run, plain = (over_units, plain_contraction.over_units) if units else (over_others, plain_contraction.over_others)
    return lambda: run(tensor, vector), lambda: plain(tensor.detach(), vector.detach())


# Matrices.


def matrix_of(rng: Random, shape: tuple[int, ...], risk: float) -> Any:
    values = rng.integers(-9, 10, shape).astype(pick(rng, (np.float32, np.float64, np.float64, np.int32, np.uint8)))
    way = rng.integers(12)
    if way == 0:
        values = values[::-1, ::-1]
    elif way == 1:
        values = np.asfortranarray(values)
    elif way == 2 and shape[-1]:
        values = np.broadcast_to(values[..., :1], shape)
    elif way == 3:
        values = np.repeat(values, 2, axis=-1)[..., ::2]
    elif way == 4:
        values = values.astype(values.dtype.newbyteorder())
    elif way == 5:
        raw = np.zeros(values.nbytes + 1, np.uint8)
        odd = raw[1:].view(values.dtype).reshape(shape) if values.size else values
        odd[...] = values
        values = odd
    elif way == 6:
        return torch.from_numpy(np.ascontiguousarray(values))
    elif way == 7:
        return torch.from_numpy(np.ascontiguousarray(values)).float().T.contiguous().T if len(shape) == 2 else values
    elif way == 8:
        values.setflags(write=False)
    elif way == 9:
        return values.tolist()
    if not chance(rng, risk):
        return values
    way = rng.integers(10)
    if way == 0 and values.size:
        values = values.astype(np.float64)
        values.flat[int(rng.integers(values.size))] = pick(rng, (np.nan, np.inf, -np.inf, 1e308, -1e308))
    elif way == 1:
        return values.astype(object)
    elif way == 2:
        return values.astype(str)
    elif way == 3:
        return hostile(rng, shape, torch.float32)
    elif way == 4:
        return np.ma.masked_less(values, 0)
    elif way == 5:
        return np.float64(3)
    elif way == 6:
        return values[..., 0] if shape[-1] else values
    elif way == 7:
        return values.astype(complex)
    return values


def numbers(rng: Random, size: int, risk: float) -> Any:
    count = int(rng.integers(0, size + 1))
    chosen = rng.permutation(max(size, 1))[:count] if size else np.zeros(0, np.int64)
    if not chance(rng, risk):
        return chosen if chance(rng, 0.5) else torch.from_numpy(chosen)
    wrong = (
        np.array([size]),
        np.array([-1]),
        np.array([2**63 + 5], np.uint64),
        [0.5],
        np.zeros((1, 1), np.int64),
        torch.empty(2, dtype=torch.int64, device="meta"),
        "1",
        np.array([None]),
    )
    return pick(rng, wrong)


def total_of(cost: Any, rows: Any, columns: Any) -> float:
    matrix = np.asarray(cost if not isinstance(cost, Tensor) else cost.detach().resolve_neg().double(), np.float64)
    return float(matrix[np.asarray(rows), np.asarray(columns)].sum())


def best_total(cost: Any, maximize: bool) -> float:
    """The total of an optimum, from the core reading a plain copy."""
    matrix = np.array(cost if not isinstance(cost, Tensor) else cost.detach().resolve_neg().double(), np.float64)
    if min(matrix.shape) <= 4 and max(matrix.shape) <= 6:
        from itertools import permutations

        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        totals = [
            sum(matrix[i, j] for i, j in enumerate(chosen))
            for chosen in permutations(range(matrix.shape[1]), matrix.shape[0])
        ]
        return float(max(totals) if maximize else min(totals))
    return total_of(matrix, *lmc.linear_sum_assignment(matrix.copy(), maximize))


def call_assignment(rng: Random, risk: float) -> Call:
    shape = (int(pick(rng, SIZES[:8])), int(pick(rng, SIZES[:8])))
    cost, maximize = matrix_of(rng, shape, risk), chance(rng, 0.5)
    if chance(rng, risk / 8):
        empty = np.broadcast_to(np.float32(1), pick(rng, ((0, 1 << 31), (1 << 31, 0))))
        return lambda: len(lmc.linear_sum_assignment(empty)[0]), lambda: 0
    options: dict[str, Any] = {}
    if chance(rng, 0.3):
        start = [matrix_of(rng, (1, size), risk) for size in shape]
        duals = [np.asarray(one).reshape(-1) if isinstance(one, (list, np.ndarray)) else one for one in start]
        columns = np.full(shape[0], -1)
        some = min(shape) // 2
        columns[:some] = rng.permutation(shape[1])[:some]
        if chance(rng, risk) and shape[0]:
            columns[0] = pick(rng, (shape[1], -2, 2**40, columns[-1]))
        options["warm_start"] = (*duals, columns)
    if chance(rng, 0.3):
        options["threads"] = pick(rng, (1, 2)) if not chance(rng, risk) else pick(rng, (0, -1, "2", 1.5))
    return (
        lambda: total_of(cost, *lmc.linear_sum_assignment(cost, maximize, **options)),
        lambda: best_total(cost, maximize),
    )


def call_batched(rng: Random, risk: float) -> Call:
    shape = (int(pick(rng, (0, 1, 2, 5))), int(pick(rng, SIZES[:7])), int(pick(rng, SIZES[:7])))
    costs, maximize = matrix_of(rng, shape, risk), chance(rng, 0.5)

    def totals(rows: Any, columns: Any) -> list[float]:
        return [total_of(costs[k], rows[k], columns[k]) for k in range(min(len(rows), 8))]

    return (
        lambda: totals(*lmc.linear_sum_assignment_batched(costs, maximize)),
        lambda: [best_total(costs[k], maximize) for k in range(min(len(costs), 8))],
    )


def call_solver(rng: Random, risk: float) -> Call:
    shape = (int(pick(rng, SIZES[:8])), int(pick(rng, SIZES[:8])))
    maximize = chance(rng, 0.5)
    solver = lmc.AssignmentSolver(maximize)
    first = rng.integers(-9, 10, shape).astype(np.float64)
    second: Any = first.copy()
    rows, columns = numbers(rng, shape[0], risk), numbers(rng, shape[1], risk)
    for axis, changed in ((0, rows), (1, columns)):
        if isinstance(changed, Tensor) and changed.is_meta:
            continue
        found = np.asarray(changed)
        if found.dtype.kind == "i" and found.ndim == 1 and (found < shape[axis]).all() and (found >= 0).all():
            place = (found, slice(None)) if axis == 0 else (slice(None), found)
            second[place] = rng.integers(-9, 10, second[place].shape)
    known: dict[str, Any] = {"changed_rows": rows, "changed_columns": columns} if chance(rng, 0.6) else {}
    if not known and chance(rng, 0.6) and shape[1]:
        second = rng.integers(-9, 10, shape).astype(np.float64)
        known["candidates"] = candidates_of(rng, second, maximize, risk)
    if chance(rng, risk):
        # Nothing is promised of it.
        second, known = matrix_of(rng, shape, 1.0), {}

    def run() -> Any:
        solver.solve(first)
        found = np.asarray(solver.solve(second, **known))
        chosen = np.flatnonzero(found >= 0)
        total = total_of(second, chosen, found[chosen])
        gap = lmc.assignment_gap(second, found, solver.duals, maximize)
        # Beside such entries the duals of the others have no digits left to prove anything with.
        is_tame = float(np.abs(np.asarray(second, np.float64)).max(initial=0, where=np.isfinite(second))) < 1e300
        if is_tame and gap > 1e-9:
            raise AssertionError(f"the gap of an optimum is {gap}")
        return total

    return run, lambda: best_total(second, maximize)


def candidates_of(rng: Random, cost: Any, maximize: bool, risk: float) -> Any:
    """Candidates that keep their promise, or that are refused."""
    rows, columns = cost.shape
    k = int(rng.integers(1, columns + 1))
    sign = -1.0 if maximize else 1.0
    order = np.argsort(sign * cost, axis=1, kind="stable")
    listed = order[:, :k].astype(pick(rng, (np.int32, np.int64)))
    rest = np.take_along_axis(sign * cost, order[:, k:], axis=1)
    bounds = sign * rest.min(axis=1, initial=np.inf)
    duals = np.zeros(columns)
    if chance(rng, risk):
        way = rng.integers(7)
        if way == 0 and rows:
            listed[0, 0] = pick(rng, (columns, -2, 2**31 - 1))
        elif way == 1:
            bounds = bounds[:-1]
        elif way == 2:
            duals = np.full(columns, np.nan)
        elif way == 3:
            listed = listed.astype(np.float64)
        elif way == 4:
            listed = np.broadcast_to(np.int32(0), (rows, 2, 2))
        elif way == 5:
            return (listed, bounds, duals)
        else:
            listed = torch.empty(rows, k, dtype=torch.int32, device="meta")
    return Candidates(listed, bounds, duals)


def call_gap(rng: Random, risk: float) -> Call:
    shape = (int(pick(rng, SIZES[:8])), int(pick(rng, SIZES[:8])))
    cost = matrix_of(rng, shape, risk)
    duals = [rng.random(size) for size in shape]
    col = np.full(shape[0], -1)
    some = min(shape)
    col[:some] = rng.permutation(shape[1])[:some]
    if chance(rng, risk) and shape[0]:
        col[0] = pick(rng, (shape[1], -2, 2**62))
    if chance(rng, risk):
        duals[0] = pick(rng, (duals[0][:-1], np.full(shape[0], np.inf), "u", torch.empty(shape[0], device="meta")))

    def run() -> bool:
        gap = lmc.assignment_gap(cost, col, (duals[0], duals[1]))
        rows = np.flatnonzero(col >= 0)
        return gap == np.inf or bool(gap >= total_of(cost, rows, col[rows]) - best_total(cost, False) - 1e-9)

    return run, lambda: True


def call_matching(rng: Random, risk: float) -> Call:
    """A whole search: what it says that it reached is what its permutations make of the weights."""
    sizes = [int(pick(rng, SIZES[1:])) for _ in range(4)]
    axes: dict[str, tuple[Any, ...]] = {
        "in": ("p", None),
        "bias": ("p",),
        "between": ("q", "p", None),
        "both": ((lmc.Segment("p"), lmc.Segment("q")), None),
        "out": (None, lmc.Segment("q", inner=2)),
    }
    p, q, few, more = sizes[0], sizes[1], sizes[2] % 9 + 1, sizes[3] % 9 + 1
    shapes = {"in": (p, few), "bias": (p,), "between": (q, p, more), "both": (p + q, few), "out": (more, 2 * q)}
    dtype = torch.float32 if chance(rng, 0.8) else pick(rng, FLOATS)
    a, b = ({name: tensor_like(rng, shape, dtype, risk / 8) for name, shape in shapes.items()} for _ in range(2))
    init, search = pick(rng, ("anchored", "identity", "random")), pick(rng, ("spectral", "coordinate_descent"))
    found: list[lmc.Matching] = []

    def ask() -> float:
        found.append(lmc.weight_matching(a, b, lmc.PermutationSpec.from_axes(axes), init=init, search=search))
        return found[0].objective

    def should() -> float:
        moved = found[0].apply({name: tensor.detach() for name, tensor in b.items()})
        return sum(float((a[name].detach().double() * moved[name].double()).sum()) for name in a)

    return ask, should


CALLS: dict[str, Callable[[Random, float], Call]] = {
    "permuted_lerp": call_lerp,
    "permuted_lerp_many": call_lerp_many,
    "permuted_dot": call_dot,
    "contraction": call_contraction,
    "linear_sum_assignment": call_assignment,
    "linear_sum_assignment_batched": call_batched,
    "AssignmentSolver": call_solver,
    "assignment_gap": call_gap,
    "weight_matching": call_matching,
}


def tensors_in(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    else:
        yield (
            value.detach().double().resolve_neg().numpy()
            if isinstance(value, Tensor)
            else np.asarray(value, np.float64)
        )


def check_same(found: Any, expected: Any, loose: bool) -> None:
    ours, theirs = list(tensors_in(found)), list(tensors_in(expected))
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2 if loose else 1e-9, atol=2e-2 if loose else 1e-7)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say which call it was that failed."""
    is_done = False
    try:
        yield
        is_done = True
    finally:
        if not is_done and sys.exc_info()[0] is not None:
            print(f"failed: {what}", file=sys.stderr)


def run(calls: int, seed: int, risk: float = 0.15) -> dict[str, Counter[str]]:
    """Make so many random calls; what became of them, by function."""
    names = list(CALLS)
    told: dict[str, Counter[str]] = {name: Counter() for name in names}
    for k in range(calls):
        name = names[k % len(names)]
        rng = np.random.default_rng([seed, k])
        ask, should = CALLS[name](rng, risk)
        with telling(f"call {k} of seed {seed}, {name}"):
            try:
                found = ask()
            except REFUSALS as error:
                told[name][type(error).__name__] += 1
                continue
            except (MemoryError, RuntimeError) as error:
                # torch has no error of its own for this on a CPU.
                if "alloc" not in str(error):
                    raise
                told[name]["MemoryError"] += 1
                continue
            check_same(found, should(), loose=name.startswith("permuted_lerp"))
            told[name]["legal"] += 1
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    told = run(options.calls, options.seed)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
