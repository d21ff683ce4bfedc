"""One checkpoint laid over another, with the journal and the watch of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from .._models import counted_names, equal_names
from .._tensors import FLOATS
from ..checkpoints.aligned import MatchedPart, matched_part
from ..matching import Matching, match_many
from ..matching.engine.descent import CoordinateDescent
from ..matching.engine.measures import distance_between, distance_from
from ..matching.weight import check_finite_weights, sweeps_of
from ..ops.permuted_dot import Overlap, overlap
from ..symmetry import Permutations, PermutationSpec
from .inputs import Input
from .journal import Record, choices_from, choices_to
from .memory import give_back
from .search import Searcher, needs_all
from .shares import Shares
from .team import Team
from .watch import Watch

__all__ = ["Matcher"]


class Matcher:
    """Weight matching of one input onto another.

    Args:
        inputs: attached; the first is the one that stays.
        spec: bound to them.
        search, freeze, max_sweeps: as `merge_checkpoints` takes them.
        shares: which tensors go together, and who has them.
        team: who works on it, and where gains are computed.
        journal: what has been done before, and where to note what is done.
        watch: is told of what is done.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        spec: PermutationSpec,
        *,
        search: str,
        freeze: Sequence[str],
        max_sweeps: int,
        shares: Shares,
        team: Team,
        journal: Record,
        watch: Watch,
    ) -> None:
        self.inputs, self.spec = inputs, spec
        self.search, self.freeze, self.max_sweeps = search, freeze, max_sweeps
        self.shares, self.team, self.journal, self.watch = shares, team, journal, watch

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
        inner = sum(each.dot for each in overlaps.values())
        a, b = self._placed(part, names)
        descent = CoordinateDescent(
            part.spec,
            a,
            b,
            dict.fromkeys(names, 1.0),
            Permutations.identity(part.spec),
            self.freeze,
            None,
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
            shares=self.shares,
            team=self.team,
            let_go=self._let_go,
        ).run()
        moved, identity = Permutations(part.spec, found.choices), Permutations.identity(part.spec)
        squares = sum(each.a + each.b for each in overlaps.values())
        direct = partial(distance_between, part.tensors_a, part.tensors_b, dict.fromkeys(names, 1.0))
        return Matching(
            permutations=Permutations(self.spec, found.choices),
            objective=found.objective,
            l2_before=distance_from(squares, inner, partial(direct, identity)),
            l2_after=distance_from(squares, found.objective, partial(direct, moved)),
            converged=found.converged,
            history=tuple(sweeps_of(found.steps, found.objective)),
            seconds=time.perf_counter() - began,
            method="weight matching",
            verified=self.spec.verified,
        )

    def _overlaps(self, m: int, part: MatchedPart, names: Sequence[str]) -> dict[str, Overlap]:
        """Norms and inner products of all parameters, and whether all are finite."""
        label = self.inputs[m].label
        done = self.journal.get(["norms", label])
        if done is None:
            self.watch.begin("reading", model=str(self.inputs[m].path))
            whole = sum(part.tensors_a[name].nbytes + part.tensors_b[name].nbytes for name in names)
            self.watch.expect(read=whole)
            mine = {}
            for name in names:
                if self.shares.rank_of(name) != self.team.rank:
                    continue
                a, b = part.tensors_a[name], part.tensors_b[name]
                found = overlap(a, b)
                if not math.isfinite(found.a) or not math.isfinite(found.b):
                    for each, tensors in ((self.inputs[0], part.tensors_a), (self.inputs[m], part.tensors_b)):
                        check_finite_weights(f"model {str(each.path)!r}", tensors, [name])
                mine[name] = list(found)
                self._let_go()
                self.watch.did("read", a.nbytes + b.nbytes, tensor=name)
                whole -= a.nbytes + b.nbytes
            done = {name: each for some in self.team.gathered(mine) for name, each in some.items()}
            self.watch.did("read", whole)
            self.journal.add(["norms", label], {name: done[name] for name in names})
        return {name: Overlap(*done[name]) for name in names}

    def matched_together(self, method: str) -> list[Matching]:
        """Lay all inputs over the first at once, as `match_many` does."""
        parts = [self.part(m) for m in range(1, len(self.inputs))]
        spec = parts[0][0].spec
        tensors: list[dict[str, Tensor]] = [parts[0][0].tensors_a, *(part.tensors_b for part, _ in parts)]
        done = self.journal.get(["match all"])
        if done is None:
            self.watch.begin("matching all models")

            def together() -> dict[str, Any]:
                many = match_many(
                    tensors,
                    spec,
                    method=method,
                    max_sweeps=self.max_sweeps,
                    device=self.team.device,
                )
                return {
                    "choices": [choices_to(each.choices) for each in many.permutations],
                    "before": many.l2_before[0].tolist(),
                    "after": many.l2_after[0].tolist(),
                    "objective": many.objective,
                    "converged": many.converged,
                    "method": many.method,
                }

            done = self.journal.add(["match all"], self.team.told(together))
        return [
            Matching(
                permutations=Permutations(self.spec, choices_from(done["choices"][m])),
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

    def _placed(self, part: MatchedPart, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both models' tensors, those that this rank computes gains of on its device."""
        device = self.team.device
        if device is None:
            return part.tensors_a, part.tensors_b
        alone = self.team.is_first and needs_all(self.search, part.spec, {name: part.tensors_a[name] for name in names})

        def placed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: tensors[name].to(device)
                if alone or self.shares.rank_of(name) == self.team.rank
                else tensors[name]
                for name in names
            }

        return placed(part.tensors_a), placed(part.tensors_b)

    def _let_go(self) -> None:
        give_back()
        for each in self.inputs:
            each.let_go()
