"""A search over all groups of several models at once: Frank-Wolfe, rounded to one permutation a model.

Crisostomi et al., "C2M3: Cycle-Consistent Multi-Model Merging" (NeurIPS 2024): every model has its permutations into
one universe, so that maps between models compose; sum over pairs of <P_k theta_k, P_m theta_m> is raised over doubly
stochastic matrices P, all of them at once. The gradient with respect to one matrix is a gain matrix: of the sum of
the other relaxed models, against the model relaxed on its other axes.

No product with a dense relaxed matrix is ever taken. A step goes part of the way to a permutation, so that a model
relaxed on some of its axes comes from those of the step before by gathers, or, where there is no room for these, from
the model itself by a gather for each permutation so far; and the objective along a step is a polynomial, whose
coefficients are inner products: the best length is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import TypeVar

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from torch import Tensor

from ..._chunks import rows_at_once
from ..._models import accumulate_dtype
from ..._progress import Progress, tracking
from ...ops.gain_matrix import Term, gain_matrix
from ...symmetry import Permutations
from ...symmetry.views import Units
from .frank_wolfe import rounded
from .merge_many import ManyDescent
from .nested import Choices, Gain, best_choices

__all__ = ["frank_wolfe_many"]

# Ends where a whole step could gain no more than this share of the objective.
SMALL_GAP = 1e-4
# The part of the starting point that is the start itself; the rest is spread over random permutations of each model.
SHARE_OF_START = 0.3
RANDOM_PARTS = 2
# Relaxed models are kept in so many bytes at most, where gains are not kept; those that need more are made parameter by
# parameter, as they are asked for.
KEPT_BYTES = 1 << 28

T = TypeVar("T")
# For each model, a parameter's parts of a step: entry j is what is gathered by the step on j axes, summed.
Parts = Sequence[Mapping[str, list[Tensor]]]


def frank_wolfe_many(descent: ManyDescent, seed: int, max_steps: int, progress: Progress) -> None:
    """Move the choices of a search to the rounded end of a Frank-Wolfe run that starts near them.

    The run starts at a mixture of the choices and random ones, since at a permutation alone it would end at once
    wherever no single group can gain. What is found can be worse than the choices that it came from.

    Args:
        seed: of the random permutations.
        max_steps: end after so many steps, converged or not.
    """
    keeps = descent.keeps or _mixed_bytes(descent) <= KEPT_BYTES
    models = [_Relaxed(descent, m, keeps) for m in range(descent.count)]
    seeds = np.random.SeedSequence((seed, 2)).generate_state(RANDOM_PARTS * len(models)).reshape(RANDOM_PARTS, -1)
    for k, row in enumerate(seeds.tolist(), start=1):
        share = (1 - SHARE_OF_START) / RANDOM_PARTS
        vertices = [Permutations.random(descent.spec, of_model).choices for of_model in row]
        # Parts that came earlier shrink by as much as this one adds.
        length = share / (SHARE_OF_START + k * share)
        for model, vertex in zip(models, vertices, strict=True):
            model.step(vertex, model.towards(vertex), length)
    with tracking(progress, "Frank-Wolfe", max_steps) as advance:
        for _ in range(max_steps):
            vertices = _linear_optimum(descent, models)
            parts = [model.towards(vertex) for model, vertex in zip(models, vertices, strict=True)]
            objective = _along(parts)
            if objective.deriv()(0.0) <= SMALL_GAP * abs(objective(0.0)):
                break
            length = _best_length(objective)
            for model, vertex, of_model in zip(models, vertices, parts, strict=True):
                model.step(vertex, of_model, length)
            reached = float(objective(length))
            advance(f"objective {reached:.6g}", objective=reached)
    spec = descent.spec
    descent.begin_at([rounded(spec, spec.roots, model.parts, model.choices) for model in models])


class _Relaxed:
    """One model under a mixture of permutations: its parameters mixed on every set of their axes.

    Args:
        descent: whose model it is, and whose choices it starts at.
        m: which model.
        keeps: whether what is mixed is kept from step to step.
    """

    def __init__(self, descent: ManyDescent, m: int, keeps: bool = True) -> None:
        self.tensors, self.keeps = descent.tensors[m], keeps
        self.descent, self.choices = descent, {name: choice.copy() for name, choice in descent.choices[m].items()}
        self.parts: list[tuple[float, Choices]] = [(1.0, self.choices)]
        self.axes = {
            name: tuple(axis for axis, roots in enumerate(descent.axis_roots[name]) if roots)
            for name in descent.tensors[m]
        }
        # By parameter and by the axes that are mixed; those of no axis are the model itself.
        self.mixed: dict[str, dict[tuple[int, ...], Tensor]] = {}
        if keeps:
            gathers = self._gathers(self.choices)
            for name, tensor in self.tensors.items():
                whole = tensor.to(accumulate_dtype(tensor.dtype))
                self.mixed[name] = {some: _gathered(whole, some, gathers[name]) for some in _subsets(self.axes[name])}

    def whole(self, name: str) -> Tensor:
        """A parameter mixed on all its axes."""
        return self._mixed_on(name, self.axes[name])

    def but(self, name: str, axis: int) -> Tensor:
        """A parameter mixed on all its axes but one."""
        return self._mixed_on(name, tuple(other for other in self.axes[name] if other != axis))

    def towards(self, vertex: Choices) -> Mapping[str, list[Tensor]]:
        """For each parameter, by j: what a step to `vertex` gathers on j axes, summed over the choice of these."""
        gathers = self._gathers(vertex)

        def parts_of(name: str) -> list[Tensor]:
            sets = self.mixed.get(name) or {some: self._mixed_on(name, some) for some in _subsets(self.axes[name])}
            return _by_count(sets, self.axes[name], gathers[name])

        return {name: parts_of(name) for name in self.mixed} if self.keeps else _Made(self.tensors, parts_of)

    def step(self, vertex: Choices, parts: Mapping[str, list[Tensor]], length: float) -> None:
        """Go this part of the way to a vertex; `parts` as of `towards`."""
        gathers = self._gathers(vertex)
        for name, mixed in self.mixed.items():
            # Larger sets first: they are made of the smaller ones as they were.
            for some in sorted(_subsets(self.axes[name]), key=len, reverse=True):
                if some:
                    whole = some == self.axes[name]
                    terms = parts[name] if whole else _by_count(mixed, some, gathers[name])
                    mixed[some] = _weighted(terms, length)
        self.parts = [((1 - length) * weight, choices) for weight, choices in self.parts] + [(length, vertex)]

    def _mixed_on(self, name: str, axes: tuple[int, ...]) -> Tensor:
        """A parameter mixed on some of its axes."""
        if self.keeps:
            return self.mixed[name][axes]
        tensor = self.tensors[name]
        mixed = tensor.to(accumulate_dtype(tensor.dtype))
        for axis in axes:
            total = torch.zeros_like(mixed)
            for weight, choices in self.parts:
                index = Permutations(self.descent.spec, choices).gathers(name)[axis]
                total.add_(_gathered(mixed, (axis,), self._placed({axis: index})), alpha=weight)
            mixed = total
        return mixed

    def _placed(self, gathers: Mapping[int, Tensor | None]) -> dict[int, Tensor | None]:
        return {axis: None if index is None else index.to(self.descent.device) for axis, index in gathers.items()}

    def _gathers(self, choices: Choices) -> dict[str, tuple[Tensor | None, ...]]:
        permutations = Permutations(self.descent.spec, choices)
        return {
            name: tuple(
                None if index is None else index.to(self.descent.device) for index in permutations.gathers(name)
            )
            for name in self.axes
        }


def _subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


class _Made(Mapping[str, T]):
    """Of each parameter what is made as it is asked for, and not kept."""

    def __init__(self, names: Iterable[str], make: Callable[[str], T]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> T:
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _mixed_bytes(descent: ManyDescent) -> int:
    """What all relaxed models take: each parameter mixed on every set of its axes."""
    total = 0
    for name, tensor in descent.tensors[0].items():
        sets = 1 << sum(bool(roots) for roots in descent.axis_roots[name])
        total += tensor.numel() * accumulate_dtype(tensor.dtype).itemsize * sets
    return descent.count * total


def _gathered(
    tensor: Tensor, axes: Sequence[int], gathers: Sequence[Tensor | None] | Mapping[int, Tensor | None]
) -> Tensor:
    for axis in axes:
        index = gathers[axis]
        if index is not None:
            tensor = tensor.index_select(axis, index)
    return tensor


def _by_count(
    mixed: Mapping[tuple[int, ...], Tensor], some: tuple[int, ...], gathers: Sequence[Tensor | None]
) -> list[Tensor]:
    """Entry j: the sum, over j of these axes, of what is mixed on the others and gathered on them."""
    found = []
    for count in range(len(some) + 1):
        terms = [
            _gathered(mixed[tuple(axis for axis in some if axis not in chosen)], chosen, gathers)
            for chosen in combinations(some, count)
        ]
        found.append(terms[0] if len(terms) == 1 else torch.stack(terms).sum(0))
    return found


def _weighted(terms: Sequence[Tensor], length: float) -> Tensor:
    """sum_j (1 - length)^(k - j) length^j terms_j, for k + 1 terms: a new tensor."""
    k = len(terms) - 1
    total = terms[0] * (1 - length) ** k
    for j in range(1, k + 1):
        total.add_(terms[j], alpha=(1 - length) ** (k - j) * length**j)
    return total


def _linear_optimum(descent: ManyDescent, models: Sequence[_Relaxed]) -> list[Choices]:
    """For every model the permutations with the greatest inner product with the gradient."""
    keeps = models[0].keeps
    totals = {name: _sum_of(models, name) for name in models[0].mixed}
    vertices = []
    for m, model in enumerate(models):
        others = [other for other in models if other is not model]
        rest: Mapping[str, Tensor] = {name: total - model.whole(name) for name, total in totals.items()}
        if not keeps:
            rest = _Made(model.tensors, partial(_sum_of, others))
        best: Choices = dict(model.choices)
        for root in descent.order:
            gains: dict[Units, Gain | None] = {}
            for name in descent.trees[root]:
                terms = (
                    Term(leaf.view(rest[leaf.parameter]), b, leaf.unit_dims, (None,) * b.ndim)
                    for leaf in descent.leaves[name]
                    for b in [leaf.view(model.but(leaf.parameter, leaf.axis))]
                )
                gain: Tensor | None = None
                # All at once, or one after another where no more than one is to be held.
                for some in [list(terms)] if keeps else ([term] for term in terms):
                    gain = gain_matrix(some, gain) if some else None
                gains[name] = None if gain is None else gain.cpu().numpy()
            best |= best_choices(descent.spec, root, gains, best, descent.solver(m, root))[0]
        vertices.append(best)
    return vertices


def _sum_of(models: Sequence[_Relaxed], name: str) -> Tensor:
    """A parameter of all these models, mixed on all its axes."""
    return torch.stack([model.whole(name) for model in models]).sum(0)


def _along(parts: Parts) -> Polynomial:
    """The objective along a step, in its length."""
    # By the number of a parameter's axes, what stands before (1 - length)^(2 k - d) length^d.
    factors: dict[int, NDArray[np.float64]] = {}
    for name in parts[0]:
        flat = torch.stack([torch.stack(of_model[name]).flatten(1) for of_model in parts])  # [models, k + 1, entries]
        count, k = flat.shape[0], flat.shape[1] - 1
        products = torch.zeros(count * (k + 1), count * (k + 1), dtype=torch.float64, device=flat.device)
        columns = flat.flatten(0, 1).T
        for part in torch.split(columns, rows_at_once(columns)):
            wide = part.double()
            products += wide.T @ wide
        blocks = products.reshape(count, k + 1, count, k + 1)
        # Each pair of models once.
        between = 0.5 * (blocks.sum((0, 2)) - torch.diagonal(blocks, dim1=0, dim2=2).sum(-1))
        of_count = factors.setdefault(k, np.zeros(2 * k + 1))
        for i, row in enumerate(between.tolist()):
            of_count[i : i + k + 1] += row
    stay, go = Polynomial([1.0, -1.0]), Polynomial([0.0, 1.0])
    total = Polynomial([0.0])
    for of_count in factors.values():
        degree = len(of_count) - 1
        for d, factor in enumerate(of_count.tolist()):
            total = total + factor * stay ** (degree - d) * go**d
    return total


def _best_length(objective: Polynomial) -> float:
    """Where on (0, 1] the polynomial is greatest."""
    turns = [float(root.real) for root in objective.deriv().roots() if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return max([*turns, 1.0], key=objective)
