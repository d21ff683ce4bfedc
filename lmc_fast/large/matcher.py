"""One checkpoint laid over another, with the journal and the watch of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._models import counted_names, equal_names
from .._tensors import FLOATS
from ..checkpoints.aligned import MatchedPart, matched_part
from ..matching import Matching
from ..matching.engine.descent import CoordinateDescent
from ..matching.engine.measures import distance_between, distance_from
from ..matching.engine.merge_many import ManyDescent
from ..matching.weight import check_finite_weights, sweeps_of
from ..ops.permuted_dot import Overlap, overlap
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.views import check_owners_around
from .ahead import Road, road_to
from .inputs import Input
from .journal import Choices, Record, choices_from, choices_to
from .memory import give_back
from .search import Found, Searcher, needs_all
from .shares import Shares
from .team import Team
from .together import Together
from .turned import turned, turned_together
from .watch import Watch, Work

__all__ = ["Matcher"]

# Bytes that are looked at, tensor by tensor, until their pages are let go: to do so takes as long as a small tensor.
READ = 1 << 26


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
        shares: Shares,
        team: Team,
        journal: Record,
        watch: Watch,
        scratch: Path,
    ) -> None:
        self.inputs, self.spec = inputs, spec
        self.search, self.freeze, self.max_sweeps = search, freeze, max_sweeps
        self.shares, self.team, self.journal, self.watch, self.scratch = shares, team, journal, watch, scratch
        # What the watch was told of for each of the searches that follow the first.
        self._expected = Work()
        # Bytes read since pages were last let go.
        self._read = 0

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
        overlaps = self._overlaps(0, m, part, names)
        if not self.spec.only_permutes:
            search = partial(
                turned,
                self.scratch / f"matching-{self.inputs[m].label}.safetensors",
                lambda: self.watch.begin("matching", model=str(self.inputs[m].path)),
                part,
                overlaps,
                self.spec,
                freeze=self.freeze,
                max_sweeps=self.max_sweeps,
                device=self.team.device,
            )
            match = self.team.after_first(search)
            self._let_go()
            return match
        found = self._search(m, part, names, overlaps)
        return self._matching(
            part,
            names,
            overlaps,
            found.choices,
            found.objective,
            converged=found.converged,
            history=tuple(sweeps_of(found.steps, found.objective)),
            seconds=time.perf_counter() - began,
            method="weight matching",
        )

    def _search(self, m: int, part: MatchedPart, names: Sequence[str], overlaps: Mapping[str, Overlap]) -> Found:
        a, b, road = self._placed(part, names)
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
        searcher = Searcher(
            descent,
            sum(each.dot for each in overlaps.values()),
            search=self.search,
            max_sweeps=self.max_sweeps,
            journal=self.journal,
            name=f"match {self.inputs[m].label}",
            watch=self.watch,
            shares=self.shares,
            team=self.team,
            let_go=self._let_go,
            expected=self._expected,
            others=len(self.inputs) - 2 if m == 1 else 0,
            road=road,
        )
        if m == 1:
            self._expected = searcher.whole
        return searcher.run()

    def _matching(
        self,
        part: MatchedPart,
        names: Sequence[str],
        overlaps: Mapping[str, Overlap],
        choices: Choices,
        objective: float,
        **told: Any,
    ) -> Matching:
        """What was found for a model, with its distances to the first."""
        moved, identity = Permutations(part.spec, choices), Permutations.identity(part.spec)
        squares, inner = (sum(each.a + each.b for each in overlaps.values()), sum(o.dot for o in overlaps.values()))
        direct = partial(distance_between, part.tensors_a, part.tensors_b, dict.fromkeys(names, 1.0))
        return Matching(
            choice=Permutations(self.spec, choices),
            objective=objective,
            l2_before=distance_from(squares, inner, partial(direct, identity)),
            l2_after=distance_from(squares, objective, partial(direct, moved)),
            verified=self.spec.verified,
            **told,
        )

    def _overlaps(self, k: int, m: int, part: MatchedPart, names: Sequence[str]) -> dict[str, Overlap]:
        """Norms and inner products of all parameters of two models, and whether all are finite."""
        at = ["norms", *(self.inputs[n].label for n in (k, m) if n)]
        done = self.journal.get(at)
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
                    for n, tensors in ((k, part.tensors_a), (m, part.tensors_b)):
                        check_finite_weights(f"model {str(self.inputs[n].path)!r}", tensors, [name])
                mine[name] = list(found)
                self._let_go(a.nbytes + b.nbytes)
                self.watch.did("read", a.nbytes + b.nbytes, tensor=name)
                whole -= a.nbytes + b.nbytes
            done = {name: each for some in self.team.gathered(mine) for name, each in some.items()}
            self.watch.did("read", whole)
            self.journal.add(at, {name: done[name] for name in names})
        return {name: Overlap(*done[name]) for name in names}

    def matched_together(self, method: str) -> list[Matching]:
        """Lay all inputs over the first at once, as `match_many` does from its anchored start.

        Raises:
            ValueError: C2M3 does not take the spec.
        """
        if method == "c2m3":
            check_owners_around(self.spec, "method='c2m3'")
        count = len(self.inputs)
        of = {m: self.part(m) for m in range(1, count)}
        spec = of[1][0].spec
        tensors = [of[1][0].tensors_a, *(part.tensors_b for part, _ in of.values())]
        # What is one tensor under two names in all models counts once.
        names = [name for name in tensors[0] if any(name in some for _, some in of.values())]
        if not self.spec.only_permutes:
            search = partial(
                turned_together,
                self.scratch / "matching-all.safetensors",
                lambda: self.watch.begin("matching all models"),
                tensors,
                spec,
                self.spec,
                method=method,
                max_sweeps=self.max_sweeps,
                device=self.team.device,
            )
            return self.team.after_first(search)
        overlaps = {
            (k, m): self._overlaps(k, m, MatchedPart(spec, tensors[k], tensors[m]), names)
            for k, m in combinations(range(count), 2)
        }
        starts = [Permutations.identity(spec).choices]
        starts += [self._search(m, of[m][0], names, overlaps[0, m]).choices for m in range(1, count)]

        def together() -> dict[str, Any]:
            device = self.team.device or torch.device("cpu")
            found = Together(
                ManyDescent(spec, tensors, names, overlaps, device, self.freeze, room=0),
                method=method,
                max_sweeps=self.max_sweeps,
                journal=self.journal,
                watch=self.watch,
                let_go=self._let_go,
            ).run(starts)
            objectives = [found.objectives[0, m] for m in range(1, count)]
            choices = [choices_to(each) for each in found.choices]
            return {"choices": choices, "objectives": objectives, "converged": found.converged}

        # The first rank does it by itself.
        told = self.team.told(together)
        found = [choices_from(choices) for choices in told["choices"]]
        # All are moved alike, which changes no objective.
        back = Permutations(spec, found[0]).inverse()
        return [
            self._matching(
                of[m][0],
                names,
                overlaps[0, m],
                back.after(Permutations(spec, found[m])).choices,
                told["objectives"][m - 1],
                converged=told["converged"],
                history=(),
                seconds=0.0,
                method=method,
            )
            for m in range(1, count)
        ]

    def _placed(
        self, part: MatchedPart, names: Sequence[str]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Road | None]:
        """Both models' tensors where gains are computed of them, or where they are and the road to there.

        What a search looks at all of goes there whole: what is not this rank's where that is the first.
        """
        device = self.team.device
        if device is None:
            return part.tensors_a, part.tensors_b, None
        if not needs_all(self.search, part.spec, {name: part.tensors_a[name] for name in names}):
            return part.tensors_a, part.tensors_b, road_to(device)

        def placed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: tensors[name].to(device)
                if self.team.is_first or self.shares.rank_of(name) == self.team.rank
                else tensors[name]
                for name in names
            }

        return placed(part.tensors_a), placed(part.tensors_b), None

    def _let_go(self, read: int | None = None) -> None:
        """Give back memory and pages that were read.

        Args:
            read: bytes that were looked at and not copied: nothing is given back until they have come to `READ`.
        """
        self._read += 0 if read is None else read
        if read is not None and self._read < READ:
            return
        self._read = 0
        give_back()
        for each in self.inputs:
            each.let_go()
