"""One checkpoint laid over another, with the journal and the watch of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._models import counted_names, equal_names
from .._tensors import FLOATS
from ..checkpoints.aligned import MatchedPart, matched_part
from ..matching import ManyMatching, Matching, match_many
from ..matching.engine.descent import CoordinateDescent
from ..matching.engine.measures import distance_between, distance_from
from ..matching.engine.turning import TurningDescent
from ..matching.weight import check_finite_weights, sweeps_of
from ..ops.permuted_dot import Overlap, overlap
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.transforms import choice_for
from .inputs import Input
from .journal import Journal, choices_from, choices_to
from .memory import give_back
from .search import Searcher
from .watch import Watch

__all__ = ["Matcher"]


class Matcher:
    """Weight matching of one input onto another.

    Args:
        inputs: attached; the first is the one that stays.
        spec: bound to them.
        search, freeze, max_sweeps: as `merge_checkpoints` takes them.
        device: where gains are computed; None: the CPU.
        journal: what has been done before, and where to note what is done.
        watch: is told of what is done.
        scratch: a folder for matchings with rotations, which are too large for a journal.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        spec: PermutationSpec,
        *,
        search: str,
        freeze: Sequence[str],
        max_sweeps: int,
        device: torch.device | None,
        journal: Journal,
        watch: Watch,
        scratch: Path,
    ) -> None:
        self.inputs, self.spec = inputs, spec
        self.search, self.freeze, self.max_sweeps = search, freeze, max_sweeps
        self.device, self.journal, self.watch, self.scratch = device, journal, watch, scratch

    def part(self, m: int) -> tuple[MatchedPart, list[str]]:
        """What of the first model and another one is matched, and the names that count."""
        a, b = self.inputs[0], self.inputs[m]
        part = matched_part(self.spec, a.tensors, b.tensors)
        told: Any = part.tensors_a if a.directory is None else a.directory.module
        names = [name for name in counted_names(told, part.tensors_a) if part.tensors_a[name].dtype in FLOATS]
        again = equal_names([part.tensors_a, part.tensors_b], names, part.spec.axes)
        self._let_go()
        return part, [name for name in names if name not in again and name not in a.tied]

    def matched(self, m: int) -> Matching:
        """Lay a model over the first by weight matching."""
        began = time.perf_counter()
        part, names = self.part(m)
        overlaps = self._overlaps(m, part, names)
        if not self.spec.only_permutes:
            return self._turned(m, part, names, overlaps)
        inner = sum(each.dot for each in overlaps.values())
        descent = CoordinateDescent(
            part.spec,
            part.tensors_a,
            part.tensors_b,
            dict.fromkeys(names, 1.0),
            Permutations.identity(part.spec),
            self.freeze,
            self.device,
            overlaps,
            room=0,
        )
        found = Searcher(
            descent,
            inner,
            search=self.search,
            max_sweeps=self.max_sweeps,
            journal=self.journal,
            name=f"match {self.inputs[m].label}",
            watch=self.watch,
            let_go=self._let_go,
        ).run()
        moved, identity = Permutations(part.spec, found.choices), Permutations.identity(part.spec)
        squares = sum(each.a + each.b for each in overlaps.values())
        direct = partial(distance_between, part.tensors_a, part.tensors_b, dict.fromkeys(names, 1.0))
        return Matching(
            choice=Permutations(self.spec, found.choices),
            objective=found.objective,
            l2_before=distance_from(squares, inner, partial(direct, identity)),
            l2_after=distance_from(squares, found.objective, partial(direct, moved)),
            converged=found.converged,
            history=tuple(sweeps_of(found.steps, found.objective)),
            seconds=time.perf_counter() - began,
            method="weight matching",
            verified=self.spec.verified,
        )

    def _turned(self, m: int, part: MatchedPart, names: Sequence[str], overlaps: Mapping[str, Overlap]) -> Matching:
        """`matched` for groups of every kind: one search in one step, with one parameter turned at a time."""
        label = self.inputs[m].label
        path = self.scratch / f"matching-{label}.safetensors"
        if not path.exists():
            self.watch.begin("matching", model=str(self.inputs[m].path))
            began, weights, identity = time.perf_counter(), dict.fromkeys(names, 1.0), choice_for(part.spec)
            pair = (part.tensors_a, part.tensors_b, weights)
            descent = TurningDescent(part.spec, *pair, identity, self.freeze, self.device, overlaps)
            found = descent.settle(None, self.max_sweeps, False)
            inner = sum(each.dot for each in overlaps.values())
            squares = sum(each.a + each.b for each in overlaps.values())
            moved = choice_for(part.spec, descent.elements)
            Matching(
                choice=moved.bound_to(self.spec),
                objective=found.objective,
                l2_before=distance_from(squares, inner, lambda: distance_between(*pair, identity)),
                l2_after=distance_from(squares, found.objective, lambda: distance_between(*pair, moved)),
                converged=found.converged,
                history=tuple(sweeps_of(found.steps, found.objective)),
                seconds=time.perf_counter() - began,
                method="weight matching",
                verified=self.spec.verified,
            ).save(path)
            self._let_go()
        match = Matching.load(path)
        return replace(match, choice=match.choice.bound_to(self.spec))

    def _overlaps(self, m: int, part: MatchedPart, names: Sequence[str]) -> dict[str, Overlap]:
        """Norms and inner products of all parameters, and whether all are finite."""
        label = self.inputs[m].label
        done = self.journal.get(["norms", label])
        if done is None:
            self.watch.begin("reading", model=str(self.inputs[m].path))
            self.watch.expect(read=sum(2 * part.tensors_a[name].nbytes for name in names))
            done = {}
            for name in names:
                a, b = part.tensors_a[name], part.tensors_b[name]
                found = overlap(a, b)
                if not math.isfinite(found.a) or not math.isfinite(found.b):
                    for each, tensors in ((self.inputs[0], part.tensors_a), (self.inputs[m], part.tensors_b)):
                        check_finite_weights(f"model {str(each.path)!r}", tensors, [name])
                done[name] = list(found)
                self._let_go()
                self.watch.did("read", a.nbytes + b.nbytes, tensor=name)
            self.journal.add(["norms", label], done)
        return {name: Overlap(*done[name]) for name in names}

    def matched_together(self, method: str) -> list[Matching]:
        """Lay all inputs over the first at once, as `match_many` does."""
        parts = [self.part(m) for m in range(1, len(self.inputs))]
        spec = parts[0][0].spec
        tensors: list[dict[str, Tensor]] = [parts[0][0].tensors_a, *(part.tensors_b for part, _ in parts)]
        if not self.spec.only_permutes:
            return self._turned_together(method, tensors, spec)
        done = self.journal.get(["match all"])
        if done is None:
            self.watch.begin("matching all models")
            many = match_many(
                tensors,
                spec,
                method=method,
                max_sweeps=self.max_sweeps,
                device=self.device,
            )
            done = self.journal.add(
                ["match all"],
                {
                    "choices": [choices_to(p.choices) for p in many.permutations if isinstance(p, Permutations)],
                    "before": many.l2_before[0].tolist(),
                    "after": many.l2_after[0].tolist(),
                    "objective": many.objective,
                    "converged": many.converged,
                    "method": many.method,
                },
            )
        return [
            Matching(
                choice=Permutations(self.spec, choices_from(done["choices"][m])),
                objective=done["objective"],
                l2_before=done["before"][m],
                l2_after=done["after"][m],
                converged=done["converged"],
                history=(),
                seconds=0.0,
                method=done["method"],
                verified=self.spec.verified,
            )
            for m in range(1, len(self.inputs))
        ]

    def _turned_together(
        self, method: str, tensors: Sequence[dict[str, Tensor]], spec: PermutationSpec
    ) -> list[Matching]:
        """`matched_together` for groups of every kind."""
        path = self.scratch / "matching-all.safetensors"
        if not path.exists():
            self.watch.begin("matching all models")
            match_many(tensors, spec, method=method, max_sweeps=self.max_sweeps, device=self.device).save(path)
        many = ManyMatching.load(path)
        return [
            Matching(
                choice=many.permutations[m].bound_to(self.spec),
                objective=many.objective,
                l2_before=float(many.l2_before[0, m]),
                l2_after=float(many.l2_after[0, m]),
                converged=many.converged,
                history=(),
                seconds=0.0,
                method=many.method,
                verified=self.spec.verified,
            )
            for m in range(1, len(self.inputs))
        ]

    def _let_go(self) -> None:
        give_back()
        for each in self.inputs:
            each.let_go()
