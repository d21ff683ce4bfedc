"""What `kernels` measures: each operation of lmc_fast.ops on tensors of some size, beside what torch has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmc_fast.ops.gain_matrix import Term, gain_matrices, gain_matrix
from lmc_fast.ops.gain_matrix import naive as gain_naive
from lmc_fast.ops.permuted_lerp import naive as lerp_naive
from lmc_fast.ops.permuted_lerp import permuted_lerp, permuted_lerp_many
from lmc_fast.ops.spectral_overlap import spectral_overlap

from .solvers import OURS

__all__ = [
    "Work",
    "correction_work",
    "gain_error",
    "gain_work",
    "interpolation_work",
    "model_work",
    "overlap_work",
    "resnet50_shapes",
    "several_lambdas_work",
    "small_groups_work",
    "transformer_shapes",
    "works",
]


@dataclass(frozen=True)
class Work:
    """One thing to do, by several contenders; the first is ours, the second what ratios are taken to.

    Attributes:
        family, n, dtype: what it is called in rows.
        moved, operations: bytes that have to be moved and operations that have to be done, at least.
        contenders: what does it.
        error: of our result, relative in norm to the exact one rounded to its dtype; read after the run.
        term: what a gain matrix is of.
    """

    family: str
    n: int
    dtype: torch.dtype
    moved: int
    operations: int
    contenders: Mapping[str, Callable[[], object]]
    error: Callable[[], float]
    term: Term | None = None


def works(sizes: Sequence[int], device: torch.device) -> Iterator[Work]:
    """Everything that is measured, made one after another."""
    for n in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            yield interpolation_work(n, dtype, device)
    yield model_work("resnet50", resnet50_shapes(), torch.float32, device)
    if device.type == "cuda":
        yield model_work("transformer, 32 layers of 2048", transformer_shapes(32, 2048), torch.bfloat16, device)
    yield several_lambdas_work(resnet50_shapes(), device)
    for n in sizes:
        for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
            for columns in (False, True):
                yield gain_work(n, dtype, columns, device)
            yield correction_work(n, dtype, device)
    yield small_groups_work(48, torch.float32, device)
    for n in sizes:
        yield overlap_work(n, device)


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Shapes of a ResNet-50's floating tensors (He et al. 2016), BatchNorm's statistics too."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), *[(64,)] * 4]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers = [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                layers.append((4 * width, inputs, 1, 1))
            for layer in layers:
                shapes += [layer, *[layer[:1]] * 4]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def transformer_shapes(layers: int, width: int) -> list[tuple[int, ...]]:
    """Shapes of a decoder's weights: attention, gated feed-forward of 8/3 width in steps of 256, norms, embedding."""
    hidden = -(-8 * width // 3 // 256) * 256
    layer = [*[(width, width)] * 4, (hidden, width), (hidden, width), (width, hidden), (width,), (width,)]
    return [(32000, width), *layer * layers, (width,)]


def interpolation_work(n: int, dtype: torch.dtype, device: torch.device) -> Work:
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    rows, columns = (torch.randperm(n).to(device) for _ in range(2))
    out, first, second = (torch.empty_like(a) for _ in range(3))
    gathers = [(None, None), (rows, columns)]

    def eager() -> Tensor:
        return torch.lerp(a, b.index_select(0, rows).index_select(1, columns), 0.5)

    def eager_given() -> Tensor:
        torch.index_select(b, 0, rows, out=first)
        torch.index_select(first, 1, columns, out=second)
        return torch.lerp(a, second, 0.5, out=out)

    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: permuted_lerp([a, b], [0.5, 0.5], gathers, out=out),
        "torch eager": eager,
        f"{OURS}, new tensor": lambda: permuted_lerp([a, b], [0.5, 0.5], gathers),
        "torch eager, given tensors": eager_given,
        "torch lerp, nothing permuted": lambda: torch.lerp(a, b, 0.5, out=out),
        "torch lerp, nothing permuted, new tensor": lambda: torch.lerp(a, b, 0.5),
    }
    if device.type == "cuda":
        contenders["torch.compile"] = torch.compile(eager)

    def error() -> float:
        exact = 0.5 * a.double() + 0.5 * b.double()[rows][:, columns]
        return _relative(permuted_lerp([a, b], [0.5, 0.5], gathers), exact.to(dtype))

    return Work("interpolation", n, dtype, 3 * a.nbytes, 2 * a.numel(), contenders, error)


def model_work(name: str, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Work:
    parts, gathers = _parts(shapes, dtype, device)
    out = [[torch.empty_like(part[0]) for part in parts]]

    def permuted(part: Sequence[Tensor], indices: Sequence[tuple[Tensor | None, ...]]) -> Tensor:
        b = part[1]
        for dim, index in enumerate(indices[1]):
            if index is not None:
                b = b.index_select(dim, index)
        return b

    def eager() -> list[Tensor]:
        return [torch.lerp(p[0], permuted(p, i), 0.5) for p, i in zip(parts, gathers, strict=True)]

    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: permuted_lerp_many(parts, [[0.5, 0.5]], gathers, out=out),
        "torch eager": eager,
        f"{OURS}, new tensors": lambda: permuted_lerp_many(parts, [[0.5, 0.5]], gathers),
        "torch lerp, nothing permuted": lambda: [torch.lerp(a, b, 0.5) for a, b in parts],
    }

    def error() -> float:
        (found,) = permuted_lerp_many(parts, [[0.5, 0.5]], gathers)
        worst = 0.0
        for part, indices, result in zip(parts, gathers, found, strict=True):
            exact = 0.5 * part[0].double() + 0.5 * permuted(part, indices).double()
            worst = max(worst, _relative(result, exact.to(dtype)))
        return worst

    entries = sum(part[0].numel() for part in parts)
    moved = 3 * entries * parts[0][0].element_size()
    return Work(f"interpolation of {name}", entries, dtype, moved, 2 * entries, contenders, error)


def several_lambdas_work(shapes: Sequence[tuple[int, ...]], device: torch.device) -> Work:
    parts, gathers = _parts(shapes, torch.float32, device)
    weights = [[1 - k / 4, k / 4] for k in range(5)]
    out = [[torch.empty_like(part[0]) for part in parts] for _ in weights]
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: permuted_lerp_many(parts, weights, gathers, out=out),
        f"{OURS}, one lambda after another": lambda: [
            permuted_lerp_many(parts, [row], gathers, out=[places]) for row, places in zip(weights, out, strict=True)
        ],
        "plain reference": lambda: lerp_naive.permuted_lerp_many(parts, weights, gathers),
    }

    def error() -> float:
        exact = lerp_naive.permuted_lerp_many([[t.double() for t in part] for part in parts], weights, gathers)
        found = permuted_lerp_many(parts, weights, gathers)
        pairs = [(x, y) for row, other in zip(found, exact, strict=True) for x, y in zip(row, other, strict=True)]
        return max(_relative(x, y) for x, y in pairs)

    entries = sum(part[0].numel() for part in parts)
    moved = (2 + len(weights)) * entries * 4
    family = "interpolation of resnet50, 5 lambdas"
    return Work(family, entries, torch.float32, moved, 4 * len(weights) * entries, contenders, error)


def gain_work(n: int, dtype: torch.dtype, columns: bool, device: torch.device) -> Work:
    """A square weight: its rows are the units and its columns are gathered, or the other way round."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    order = torch.randperm(n).to(device)
    unit = 1 if columns else 0
    term = Term(a, b, (unit,), (order, None) if columns else (None, order))

    def eager() -> Tensor:
        return a.T @ b.index_select(0, order) if columns else a @ b.index_select(1, order).T

    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: gain_matrix([term]),
        "torch gather and product": eager,
        "torch product alone": lambda: a.T @ b if columns else a @ b.T,
    }
    if device.type == "cuda":
        contenders["torch.compile"] = torch.compile(eager)
        for precision in ("tf32x3", "ieee") if dtype == torch.float32 else ("library",):
            contenders[f"{OURS}, {precision}"] = lambda precision=precision: gain_matrix([term], precision=precision)
    family = f"gain matrix, units on {'columns' if columns else 'rows'}"
    moved = 2 * a.nbytes + 4 * n * n
    return Work(family, n, dtype, moved, 2 * n**3, contenders, lambda: gain_error(gain_matrix([term]), [term]), term)


def correction_work(n: int, dtype: torch.dtype, device: torch.device) -> Work:
    """A twentieth of the gathered entries has moved."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    before = torch.randperm(n)
    places = torch.randperm(n)[: max(2, n // 20)]
    now = before.clone()
    now[places] = before[places.roll(1)]
    places, before, now = places.to(device), before.to(device), now.to(device)
    term = Term(a.index_select(0, places), b, (1,), (now[places], None), (before[places], None))
    whole = Term(a, b, (1,), (now, None))
    base = torch.zeros(n, n, device=device)
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: gain_matrix([term], base),
        f"{OURS}, anew": lambda: gain_matrix([whole]),
        "plain reference": lambda: gain_naive.gain_matrix([term], base),
    }
    if device.type == "cuda" and dtype != torch.float32:
        contenders[f"{OURS}, library"] = lambda: gain_matrix([term], base, precision="library")
        contenders[f"{OURS}, library, anew"] = lambda: gain_matrix([whole], precision="library")
    entries = len(places)
    moved = 3 * entries * n * a.element_size() + 8 * n * n
    return Work(
        *("gain matrix, correction of 5 %", n, dtype, moved, 2 * n * n * entries, contenders),
        lambda: gain_error(gain_matrix([term]), [term]),
        term,
    )


def small_groups_work(count: int, dtype: torch.dtype, device: torch.device) -> Work:
    """Groups of 64 to 256 units, each with the weights before and behind it and a bias."""
    groups = []
    for g in range(count):
        units = (64, 128, 256)[g % 3]
        order = torch.randperm(2 * units).to(device)
        ins, outs = (torch.randn(2, 2 * units, units, device=device).to(dtype) for _ in range(2))
        biases = torch.randn(2, units, device=device).to(dtype)
        groups.append(
            [
                Term(ins[0].T, ins[1].T, (0,), (None, order)),
                Term(outs[0], outs[1], (1,), (order, None)),
                Term(biases[0], biases[1], (0,), (None,)),
            ]
        )
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: gain_matrices(groups),
        "plain reference": lambda: gain_naive.gain_matrices(groups, [None] * count),
        f"{OURS}, one group after another": lambda: [gain_matrix(terms) for terms in groups],
    }

    def error() -> float:
        return max(gain_error(gain, terms) for gain, terms in zip(gain_matrices(groups), groups, strict=True))

    squares = [(terms[0].unit_count() ** 2, sum(term.entry_count() for term in terms)) for terms in groups]
    entries = sum(term.a.nbytes + term.b.nbytes for terms in groups for term in terms)
    moved = entries + 4 * sum(square for square, _ in squares)
    operations = 2 * sum(square * k for square, k in squares)
    return Work("gain matrices of small groups", count, dtype, moved, operations, contenders, error)


def overlap_work(n: int, device: torch.device) -> Work:
    # Random vectors: an SVD of the larger sizes would take longer than all else.
    u_a, v_a, u_b, v_b = (torch.randn(n, n, device=device) / n**0.5 for _ in range(4))
    s = torch.linspace(1, 0.01, n, device=device)
    rows, columns = (torch.randperm(n).to(device) for _ in range(2))

    def ours() -> Tensor:
        return spectral_overlap(u_a, s, v_a, u_b, s, v_b, rows, columns)

    contenders: dict[str, Callable[[], object]] = {
        OURS: ours,
        "plain reference": lambda: spectral_overlap(u_a, s, v_a, u_b, s, v_b, rows, columns, backend="torch"),
    }

    def error() -> float:
        """Absolute, R being 1 at most: overlaps of random vectors cancel to nearly nothing."""
        doubles = [x.double() for x in (u_a, s, v_a, u_b, s, v_b)]
        exact = spectral_overlap(*doubles, rows, columns, backend="torch")
        return float((ours() - exact).abs().max())

    return Work("spectral overlap", n, torch.float32, 16 * n * n, 4 * n**3, contenders, error)


def _parts(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[list[list[Tensor]], list[list[tuple[Tensor | None, ...]]]]:
    """Two models and the gathers of the second: every axis that is neither an input's nor a kernel's is permuted."""
    orders: dict[int, Tensor] = {}
    parts, gathers = [], []
    for shape in shapes:
        index = tuple(
            orders.setdefault(size, torch.randperm(size).to(device)) if dim < 2 and size > 3 else None
            for dim, size in enumerate(shape)
        )
        parts.append([torch.randn(shape, device=device).to(dtype) for _ in range(2)])
        gathers.append([(None,) * len(shape), index])
    return parts, gathers


def gain_error(gain: Tensor, terms: list[Term]) -> float:
    """How far a gain matrix is from the exact one of its terms, relative in norm."""
    doubles = [Term(t.a.double(), t.b.double(), t.units, t.gathers, t.before) for t in terms]
    return _relative(gain, gain_naive.gain_matrix(doubles))


def _relative(found: Tensor, exact: Tensor) -> float:
    exact = exact.double()
    return float((found.double() - exact).norm() / exact.norm())
