"""Many models laid over each other at once, a step at a time: what `match_many` does, with the memory of one group.

No gain and no assignment is kept from step to step, so that a step depends on nothing but where the models are: what
a journal has, a run that goes on need not do again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..matching.engine.merge_many import ManyDescent
from ..matching.engine.universe import frank_wolfe_many
from .journal import Choices, Place, Record, choices_from, choices_to
from .visits import work_of
from .watch import Watch

__all__ = ["FoundTogether", "Together"]


@dataclass(frozen=True)
class FoundTogether:
    """What a search led to.

    Attributes:
        choices: of each model, in a frame of all.
        objectives: of each pair.
        converged: whether nothing could gain alone at its end.
    """

    choices: list[Choices]
    objectives: dict[tuple[int, int], float]
    converged: bool


class Together:
    """One search over several models, from where each lies over the first.

    Args:
        descent: made with ``room=0``.
        method: "merge_many" or "c2m3".
        max_sweeps: over all groups of all models, at most; steps of C2M3 too.
        journal: what has been done before, and where to note what is done.
        watch: is told of what is done.
        let_go: as `Searcher` takes it.
    """

    def __init__(
        self,
        descent: ManyDescent,
        *,
        method: str,
        max_sweeps: int,
        journal: Record,
        watch: Watch,
        let_go: Callable[..., None],
    ) -> None:
        self.descent, self.method, self.max_sweeps = descent, method, max_sweeps
        self.journal, self.watch, self.let_go = journal, watch, let_go

    def run(self, starts: Sequence[Choices]) -> FoundTogether:
        """Search; what the journal has is taken from there."""
        self.descent.begin_at(starts)
        if self.method == "c2m3":
            self._frank_wolfe()
        converged = self._sweep()
        return FoundTogether(list(self.descent.choices), self._objectives("objectives"), converged)

    def _frank_wolfe(self) -> None:
        start = [dict(choices) for choices in self.descent.choices]
        reached = sum(self._objectives("objectives before").values())
        done = self._done(["frank_wolfe"])
        if done is None:
            self.watch.begin("Frank-Wolfe")
            frank_wolfe_many(self.descent, 0, self.max_sweeps, False)
            self.let_go()
            done = self._note(["frank_wolfe"], [choices_to(choices) for choices in self.descent.choices])
        self.descent.begin_at([choices_from(choices) for choices in done])
        if sum(self._objectives("objectives between").values()) < reached:
            self.descent.begin_at(start)

    def _sweep(self) -> bool:
        """Visit stale groups of all models until none is left; whether that was reached."""
        descent = self.descent
        stale = {(m, root) for m in range(descent.count) for root in descent.order}
        self.watch.expect(operations=sum(self._work(root) for _, root in stale))
        sweep = moved = 0
        gained = 0.0
        while stale and sweep < self.max_sweeps:
            self.watch.begin(f"sweep {sweep + 1} over all models", groups_stale=len(stale))
            for m in range(descent.count):
                for root in descent.order:
                    if (m, root) not in stale:
                        continue
                    stale.remove((m, root))
                    done = self._step(sweep, m, root)
                    if done["moved"]:
                        gained += done["gained"]
                        moved += done["moved"]
                        more = descent.touched(m, root) - stale
                        stale |= more
                        self.watch.expect(operations=sum(self._work(other) for _, other in more))
                    self.watch.did("operations", self._work(root), group=root, units_moved=moved, gained=gained)
            sweep += 1
        return not stale

    def _step(self, sweep: int, m: int, root: str) -> Any:
        at: Place = ["sweeps", sweep, m, root]
        done = self._done(at)
        if done is None:
            gained, moved = self.descent.improve(m, root)
            names = self.descent.trees[root] if moved else []
            choices = choices_to({name: self.descent.choices[m][name] for name in names})
            done = self._note(at, {"gained": gained, "moved": moved, "choices": choices})
            self.let_go()
        elif done["moved"]:
            self.descent.place(m, root, choices_from(done["choices"]))
        return done

    def _objectives(self, name: str) -> dict[tuple[int, int], float]:
        """Of every pair, with all models where they are."""
        done = self._done([name])
        if done is None:
            self.watch.begin(name)
            done = []
            for pair in self.descent.pairs.values():
                total = 0.0
                self.watch.expect(read=sum(2 * tensor.nbytes for tensor in pair.a.values()))
                for parameter, tensor in pair.a.items():
                    total += pair.gains.dot(parameter)
                    self.let_go(2 * tensor.nbytes)
                    self.watch.did("read", 2 * tensor.nbytes)
                done.append(total)
            self._note([name], done)
        return dict(zip(self.descent.pairs, done, strict=True))

    def _work(self, root: str) -> float:
        """Operations of the products of one visit: gains between a model and each of the others."""
        first = self.descent.pairs[0, 1]
        return (self.descent.count - 1) * work_of(first.a, {name: first.leaves[name] for name in first.units[root]})

    def _done(self, at: Place) -> Any:
        return self.journal.get(["match all", *at])

    def _note(self, at: Place, found: Any) -> Any:
        return self.journal.add(["match all", *at], found)
