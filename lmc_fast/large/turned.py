"""Checkpoints laid over the first by groups of every kind: each search is one step, whose result is kept in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.aligned import MatchedPart
from ..matching import ManyMatching, Matching, match_many
from ..matching.engine.measures import distance_between, distance_from
from ..matching.engine.turning import TurningDescent
from ..matching.weight import sweeps_of
from ..ops.permuted_dot import Overlap
from ..symmetry import PermutationSpec
from ..symmetry.transforms import choice_for

__all__ = ["turned", "turned_together"]


def turned(
    path: Path,
    begin: Callable[[], None],
    part: MatchedPart,
    overlaps: Mapping[str, Overlap],
    spec: PermutationSpec,
    *,
    freeze: Sequence[str],
    max_sweeps: int,
    device: torch.device | None,
) -> Matching:
    """Lay a model over the first by weight matching; weights are turned one parameter at a time.

    Args:
        path: where the result is kept; one that is there is taken.
        begin: is called before there is anything to do.
        part: what is matched.
        overlaps: of the parameters that count.
        spec: what the result is for.
        freeze, max_sweeps, device: as `weight_matching` takes them.
    """
    if not path.exists():
        begin()
        began, weights, identity = time.perf_counter(), dict.fromkeys(overlaps, 1.0), choice_for(part.spec)
        pair = (part.tensors_a, part.tensors_b, weights)
        descent = TurningDescent(part.spec, *pair, identity, freeze, device, overlaps)
        found = descent.settle(None, max_sweeps, False)
        moved, direct = choice_for(part.spec, descent.elements), partial(distance_between, *pair)
        squares, inner = (sum(o.a + o.b for o in overlaps.values()), sum(o.dot for o in overlaps.values()))
        Matching(
            choice=moved.bound_to(spec),
            objective=found.objective,
            l2_before=distance_from(squares, inner, partial(direct, identity)),
            l2_after=distance_from(squares, found.objective, partial(direct, moved)),
            converged=found.converged,
            history=tuple(sweeps_of(found.steps, found.objective)),
            seconds=time.perf_counter() - began,
            method="weight matching",
            verified=spec.verified,
        ).save(path)
    match = Matching.load(path)
    return replace(match, choice=match.choice.bound_to(spec))


def turned_together(
    path: Path,
    begin: Callable[[], None],
    tensors: Sequence[dict[str, Tensor]],
    told: PermutationSpec,
    spec: PermutationSpec,
    *,
    method: str,
    max_sweeps: int,
    device: torch.device | None,
) -> list[Matching]:
    """Lay all models over the first at once, as `match_many` does.

    Args:
        path, begin, spec: as of `turned`.
        tensors: of all models, that of `told`.
    """
    if not path.exists():
        begin()
        match_many(tensors, told, method=method, max_sweeps=max_sweeps, device=device).save(path)
    many = ManyMatching.load(path)
    return [
        Matching(
            choice=many.permutations[m].bound_to(spec),
            objective=many.objective,
            l2_before=float(many.l2_before[0, m]),
            l2_after=float(many.l2_after[0, m]),
            converged=many.converged,
            history=(),
            seconds=0.0,
            method=method,
            verified=spec.verified,
        )
        for m in range(1, len(tensors))
    ]
