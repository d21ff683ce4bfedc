"""Weight matching whose memory is set by one group: the same search as `weight_matching`, a step at a time.

Groups are settled one by one outwards from the fixed axes, and then visited, sweep after sweep, where a neighbour has
moved. Every gain is a sum of its own and every assignment is solved from nothing, so that a step depends on nothing but
where the groups are: what a journal has, a run that goes on need not do again, and it ends as an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..matching.engine.descent import LEADING_SWEEPS, CoordinateDescent, Step
from ..matching.engine.frank_wolfe import frank_wolfe
from ..matching.engine.leading import factor_bytes
from ..matching.engine.workers import SideBySide
from ..symmetry.views import Leaf, Units
from .journal import Choices, Journal, Place, choices_from, choices_to
from .watch import Watch

__all__ = ["SEARCHES", "Found", "Searcher", "work_of"]

SEARCHES = ("auto", "spectral", "coordinate_descent", "frank_wolfe")
# Leading parts of all weights at once are held in so many bytes at most, unless they are asked for.
LEADING_BYTES = 1 << 28


@dataclass(frozen=True)
class Found:
    """What a search led to."""

    choices: Choices
    objective: float
    steps: list[Step]
    converged: bool


class Searcher:
    """One search, from its start to a local optimum.

    Args:
        descent: at its start; made with ``room=0``.
        reached: the objective there, below which the search does not end.
        search: one of `SEARCHES`.
        max_sweeps: over the groups, at most.
        journal: what has been done before, and where to note what is done.
        name: of the search in the journal.
        watch: is told of what is done.
        let_go: called after each step: what was read for it will not be read again soon.
    """

    def __init__(
        self,
        descent: CoordinateDescent,
        reached: float,
        *,
        search: str,
        max_sweeps: int,
        journal: Journal | None,
        name: str,
        watch: Watch,
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.descent, self.reached = descent, reached
        self.search, self.max_sweeps = search, max_sweeps
        self.journal, self.name = journal, name
        self.watch, self.let_go = watch, let_go
        self.settled = 0

    def run(self) -> Found:
        """Search; what the journal has is taken from there."""
        start = dict(self.descent.choices)
        order, stale = self._begin()
        steps, converged = self._sweep("sweeps", order, stale)
        objective = self._objective("objective")
        if objective < self.reached:
            # Models that lie over each other already, say, and a pass outwards.
            self.descent.choose_all(start)
            steps, converged = self._sweep("sweeps again", order, set(self.descent.open))
            objective = self._objective("objective again")
        return Found(dict(self.descent.choices), objective, steps, converged)

    def _begin(self) -> tuple[list[str], set[str]]:
        """Settle all groups; returns their order, and those of which not all was known."""
        led = self._lead()
        if led is not None:
            return led, set(self.descent.open)
        order: list[str] = []
        stale: set[str] = set()
        outward = list(self.descent.outward())
        self._expect(outward)
        self.watch.begin("settling groups", groups=len(self.descent.open))
        for root, known in outward:
            order.append(root)
            at: Place = ["settled", root]
            done = self._done(at)
            work = self._work_of(known)
            if done is None:
                before = dict(self.descent.choices)
                whole = self.descent.settle_one(root, known, order)
                self._over()
                moved = {name: choice for name, choice in self.descent.choices.items() if choice is not before[name]}
                done = self._note(at, {"whole": whole, "choices": choices_to(moved)})
                self.let_go()
            else:
                self._put(choices_from(done["choices"]))
            if not done["whole"]:
                stale.add(root)
            self.settled += 1
            self.watch.did("operations", work, group=root, groups_settled=self.settled, groups=len(self.descent.open))
        if self.search == "frank_wolfe":
            self._frank_wolfe()
            stale = set(self.descent.open)
        return order, stale

    def _lead(self) -> list[str] | None:
        """Go where the leading parts of the weights point; the groups outwards, None where they do not stand out."""
        if self.search not in ("auto", "spectral"):
            return None
        if self.search == "auto" and factor_bytes(self.descent.a, self.descent.leaves) > LEADING_BYTES:
            return None
        done = self._done(["leading"])
        if done is None:
            leading = self.descent.leading(probe=True)
            self.let_go()
            if leading is None:
                done = self._note(["leading"], {"order": None, "choices": {}})
            else:
                self.watch.begin("leading parts")
                order = leading.anchor()
                leading.run(lambda: order, min(LEADING_SWEEPS, self.max_sweeps), False)
                done = self._note(["leading"], {"order": order, "choices": choices_to(leading.choices)})
        if done["order"] is None:
            return None
        self._put(choices_from(done["choices"]))
        return list(done["order"])

    def _frank_wolfe(self) -> None:
        done = self._done(["frank_wolfe"])
        if done is None:
            self.watch.begin("Frank-Wolfe")
            frank_wolfe(self.descent, self.max_sweeps, False)
            self._over()
            done = self._note(["frank_wolfe"], {"choices": choices_to(self.descent.choices)})
            self.let_go()
        self._put(choices_from(done["choices"]))

    def _sweep(self, name: str, order: Sequence[str], stale: set[str]) -> tuple[list[Step], bool]:
        """Visit stale groups until none is left."""
        steps: list[Step] = []
        self.watch.left.operations = sum(self._work(root) for root in stale)
        with SideBySide() as workers:
            while stale and len(steps) < self.max_sweeps:
                step = Step()
                self.watch.begin(f"sweep {len(steps) + 1}", groups_stale=len(stale))
                for root in order:
                    if root not in stale:
                        continue
                    stale.discard(root)
                    at: Place = [name, len(steps), root]
                    done = self._done(at)
                    if done is None:
                        ((gained, moved),) = self.descent.improve([root], workers)
                        self._over()
                        choices = (
                            {each: self.descent.choices[each] for each in self.descent.trees[root]} if moved else {}
                        )
                        done = self._note(at, {"gained": gained, "moved": moved, "choices": choices_to(choices)})
                        self.let_go()
                    else:
                        self._put(choices_from(done["choices"]))
                    step.solved += 1
                    if done["moved"]:
                        step.gained += done["gained"]
                        step.moved += done["moved"]
                        more = self.descent.neighbours[root] - stale
                        stale |= more
                        self.watch.expect(operations=sum(self._work(other) for other in more))
                    self.watch.did(
                        "operations", self._work(root), group=root, units_moved=step.moved, gained=step.gained
                    )
                steps.append(step)
        return steps, not stale

    def _objective(self, name: str) -> float:
        done = self._done([name])
        if done is None:
            total = 0.0
            self.watch.begin("objective")
            self.watch.expect(read=sum(2 * tensor.nbytes for tensor in self.descent.a.values()))
            for parameter, tensor in self.descent.a.items():
                total += self.descent.gains.dot(parameter)
                self.let_go()
                self.watch.did("read", 2 * tensor.nbytes)
            done = self._note([name], total)
        self.watch.begin("objective", objective=done)
        return float(done)

    def _expect(self, outward: Sequence[tuple[str, Mapping[Units, Sequence[Leaf]]]]) -> None:
        """Tell of the pass outwards, and of a sweep over what is not wholly known in it."""
        for root, known in outward:
            work, whole = self._work_of(known), self._work(root)
            self.watch.expect(operations=work + (whole if work < whole else 0.0))

    def _work(self, root: str) -> float:
        return self._work_of({name: self.descent.leaves[name] for name in self.descent.units[root]})

    def _work_of(self, leaves: Mapping[Units, Sequence[Leaf]]) -> float:
        return work_of(self.descent.a, leaves)

    def _put(self, choices: Choices) -> None:
        roots = {self.descent.spec.root_of(name) for name in choices}
        for root in roots:
            self.descent.choose(
                root, {name: c for name, c in choices.items() if self.descent.spec.root_of(name) == root}
            )

    def _over(self) -> None:
        """A step is done: the next one knows nothing of its assignments, and sums its gains where these were."""
        self.descent.solvers.clear()
        self.descent.gains.take_back()

    def _done(self, at: Place) -> Any:
        return None if self.journal is None else self.journal.get([self.name, *at])

    def _note(self, at: Place, found: Any) -> Any:
        return found if self.journal is None else self.journal.add([self.name, *at], found)


def work_of(tensors: Mapping[str, Tensor], leaves: Mapping[Units, Sequence[Leaf]]) -> float:
    """Operations of the products that the gains of these leaves take."""
    return float(
        sum(
            2 * tensors[leaf.parameter].numel() * tensors[leaf.parameter].shape[leaf.axis]
            for of in leaves.values()
            for leaf in of
        )
    )
