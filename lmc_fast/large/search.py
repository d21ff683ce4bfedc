"""Weight matching whose memory is set by one group: the same search as `weight_matching`, a step at a time.

Groups are settled one by one outwards from the fixed axes, and then visited, sweep after sweep, where a neighbour has
moved. Every gain is a sum of its own and every assignment is solved from nothing, so that a step depends on nothing but
where the groups are: what a journal has, a run that goes on need not do again, and it ends as an undisturbed one does.

Several processes go through the same steps. Groups that come after each other in the order and do not depend on each
other make a *wave*: each is solved by the process that has most of its tensors, and all get to know its choices. Where
others have tensors of it too, these sum their part of its gains and send that there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ..matching.engine.descent import LEADING_SWEEPS, CoordinateDescent, Step
from ..matching.engine.frank_wolfe import frank_wolfe
from ..matching.engine.leading import factor_bytes
from ..matching.engine.workers import SideBySide
from ..symmetry import PermutationSpec
from ..symmetry.views import Leaf, Units, leaves
from .ahead import Road
from .journal import Choices, Place, Record, choices_from, choices_to
from .parted import PartedGains
from .shares import Shares
from .team import Team
from .visits import Spot, Visit, work_of
from .watch import Watch, Work

__all__ = ["SEARCHES", "Found", "Searcher", "needs_all"]

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


def needs_all(search: str, spec: PermutationSpec, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the first rank does part of a search by itself, for which it needs all tensors where it computes.

    Args:
        search: one of `SEARCHES`.
        spec: bound.
        tensors: of one model, those that count.
    """
    if search != "auto":
        return search != "coordinate_descent"
    found: dict[Units, list[Leaf]] = {name: [] for name in spec.groups}
    for root in spec.roots:
        for leaf in leaves(spec, root):
            if leaf.parameter in tensors:
                found.setdefault(leaf.group, []).append(leaf)
    return factor_bytes({name: spec.view(name, tensor) for name, tensor in tensors.items()}, found) <= LEADING_BYTES


class Searcher:
    """One search, from its start to a local optimum.

    Args:
        descent: at its start; its gains are replaced by `PartedGains`.
        reached: the objective there, below which the search does not end.
        search: one of `SEARCHES`.
        max_sweeps: over the groups, at most.
        journal: what has been done before, and where to note what is done.
        name: of the search in the journal.
        watch: is told of what is done.
        shares: which tensors go together, and who has them.
        team: who works on it.
        let_go: called after each step: what was read for it will not be read again soon; with a number of bytes after
            a tensor that was looked at and not copied.
        expected: operations and bytes read that the watch has been told of for this search already.
        others: how many searches like this one follow; the watch is told of these too.
        road: as `PartedGains` takes it.
    """

    def __init__(
        self,
        descent: CoordinateDescent,
        reached: float,
        *,
        search: str,
        max_sweeps: int,
        journal: Record | None,
        name: str,
        watch: Watch,
        shares: Shares,
        team: Team,
        let_go: Callable[..., None] = lambda read=None: None,
        expected: Work | None = None,
        others: int = 0,
        road: Road | None = None,
    ) -> None:
        self.descent, self.reached = descent, reached
        self.shares, self.team = shares, team
        self.gains = PartedGains(descent, shares, team, road)
        descent.gains = self.gains
        self.search, self.max_sweeps = search, max_sweeps
        self.journal, self.name = journal, name
        self.watch, self.let_go = watch, let_go
        self.settled = 0
        # What is left of this search, as the watch has it.
        self.left = Work() if expected is None else replace(expected)
        self.others = others
        # Operations of the step so far.
        self._multiplied = 0.0
        descent.gains.told = self._multiply

    @property
    def whole(self) -> Work:
        """What such a search takes, as far as it can be told before: settling groups, one sweep, the objective."""
        operations = 0.0
        for root, known in self.descent.outward():
            work, whole = self._work_of(known), self._work(root)
            operations += work + (whole if work < whole else 0.0)
        return Work(read=self._read, operations=operations)

    @property
    def _read(self) -> float:
        return float(sum(2 * tensor.nbytes for tensor in self.descent.a.values()))

    def _expect(self, read: float | None = None, operations: float | None = None) -> None:
        """So much is left of this search; the watch counts with the difference."""
        read = self.left.read if read is None else read
        operations = self.left.operations if operations is None else operations
        self.watch.expect(read=read - self.left.read, operations=operations - self.left.operations)
        self.left = Work(read=read, operations=operations)

    def _did(self, kind: str, amount: float, **fields: Any) -> None:
        setattr(self.left, kind, max(0.0, getattr(self.left, kind) - amount))
        self.watch.did(kind, amount, **fields)

    def _multiply(self, operations: float) -> None:
        """A product of a step that is under way."""
        self._multiplied += operations
        self._did("operations", operations)

    def _end_step(self, work: float, is_new: bool, **fields: Any) -> None:
        """A step is over, or was done before."""
        rest, self._multiplied = max(0.0, work - self._multiplied), 0.0
        if is_new:
            self._did("operations", rest, **fields)
        else:
            self.left.operations = max(0.0, self.left.operations - rest)
            self.watch.skip("operations", rest, **fields)

    def run(self) -> Found:
        """Search; what the journal has is taken from there."""
        start = dict(self.descent.choices)
        whole = self.whole
        self._expect(whole.read, whole.operations)
        self.watch.expect(read=self.others * whole.read, operations=self.others * whole.operations)
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
        self.watch.begin("settling groups", groups=len(self.descent.open))
        known = dict(outward)
        following = dict(zip(known, list(known)[1:], strict=False))
        for wave in self._waves([root for root, _ in outward]):
            steps = []
            for root in wave:
                order.append(root)
                then = known[following[root]] if root in following else {}
                steps.append(self._settling(root, known[root], list(order), list(then.values())))
            for step, done, is_new in self._together(steps):
                self._put(choices_from(done["choices"]))
                if not done["whole"]:
                    stale.add(step.root)
                self.settled += 1
                counts = {"groups_settled": self.settled, "groups": len(self.descent.open)}
                self._end_step(self._work_of(known[step.root]), is_new, group=step.root, **counts)
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
            done = self._note(["leading"], self.team.told(self._leading))
        if done["order"] is None:
            return None
        self._put(choices_from(done["choices"]))
        return list(done["order"])

    def _leading(self) -> dict[str, Any]:
        leading = self.descent.leading(probe=True)
        self.let_go()
        if leading is None:
            return {"order": None, "choices": {}}
        self.watch.begin("leading parts")
        order = leading.anchor()
        leading.run(lambda: order, min(LEADING_SWEEPS, self.max_sweeps), False)
        return {"order": order, "choices": choices_to(leading.choices)}

    def _frank_wolfe(self) -> None:
        done = self._done(["frank_wolfe"])
        if done is None:
            self.watch.begin("Frank-Wolfe")
            done = self._note(["frank_wolfe"], self.team.told(self._relaxed))
            self.let_go()
        self._put(choices_from(done["choices"]))

    def _relaxed(self) -> dict[str, Any]:
        frank_wolfe(self.descent, self.max_sweeps, False)
        self._over()
        return {"choices": choices_to(self.descent.choices)}

    def _sweep(self, name: str, order: Sequence[str], stale: set[str]) -> tuple[list[Step], bool]:
        """Visit stale groups until none is left."""
        steps: list[Step] = []
        self._expect(operations=sum(self._work(root) for root in stale))
        with SideBySide() as workers:
            while stale and len(steps) < self.max_sweeps:
                step = Step()
                self.watch.begin(f"sweep {len(steps) + 1}", groups_stale=len(stale))
                rest = list(order)
                while wave := self._next_wave(rest, stale):
                    stale -= set(wave)
                    following = next((root for root in rest if root in stale), None)
                    then = [] if following is None else list(self._gains_of(following).values())
                    improving = [self._improving(root, [name, len(steps), root], workers, then) for root in wave]
                    for each, done, is_new in self._together(improving):
                        root = each.root
                        self._put(choices_from(done["choices"]))
                        step.solved += 1
                        if done["moved"]:
                            step.gained += done["gained"]
                            step.moved += done["moved"]
                            more = self.descent.neighbours[root] - stale
                            stale |= more
                            self._expect(operations=self.left.operations + sum(self._work(other) for other in more))
                        moved = {"units_moved": step.moved, "gained": step.gained}
                        self._end_step(self._work(root), is_new, group=root, **moved)
                steps.append(step)
        return steps, not stale

    def _settling(
        self,
        root: str,
        known: Mapping[Units, Sequence[Leaf]],
        order: Sequence[str],
        then: Sequence[Sequence[Leaf]],
    ) -> Visit:
        def do() -> dict[str, Any]:
            before = dict(self.descent.choices)
            whole = self.descent.settle_one(root, known, order)
            self._over()
            moved = {name: choice for name, choice in self.descent.choices.items() if choice is not before[name]}
            return {"whole": whole, "choices": choices_to(moved)}

        return Visit(root, ["settled", root], lambda: self.descent.asked(root, known, order), do, then)

    def _gains_of(self, root: str) -> dict[Units, list[Leaf]]:
        return {units: found for units in self.descent.units[root] if (found := self.descent.leaves[units])}

    def _improving(self, root: str, at: Place, workers: SideBySide, then: Sequence[Sequence[Leaf]]) -> Visit:
        def do() -> dict[str, Any]:
            ((gained, moved),) = self.descent.improve([root], workers)
            self._over()
            choices = {each: self.descent.choices[each] for each in self.descent.trees[root]} if moved else {}
            return {"gained": gained, "moved": moved, "choices": choices_to(choices)}

        return Visit(root, at, partial(self._gains_of, root), do, then)

    def _waves(self, order: Sequence[str]) -> Iterator[list[str]]:
        rest = list(order)
        while wave := self._next_wave(rest, set(rest)):
            yield wave

    def _next_wave(self, rest: list[str], stale: Collection[str]) -> list[str]:
        """The next groups to visit of those that are left in the order: these are taken off it.

        None of them depends on another, and none is passed over that may become stale by one of them. One process does
        one after another, and there is no more to a wave than a group.
        """
        wave: list[str] = []
        near: set[str] = set()
        while rest and rest[0] not in near and not (wave and self.team.size == 1):
            root = rest.pop(0)
            if root in stale:
                wave.append(root)
                near |= self.descent.neighbours[root]
        return wave

    def _together(self, steps: Sequence[Visit]) -> Iterator[tuple[Visit, Any, bool]]:
        """Do the steps of a wave, each by the rank that has most of its tensors; yields each with what came of it, and
        whether it was done now.

        They come in their order, as soon as that can be; what is done before is not waited for.
        """
        places = {step: self._place_of(step) for step in steps if self._done(step.at) is None}
        rest = list(steps)
        # All come to the steps that are of several ranks in one order, and then have their own left to do.
        for step in sorted(places, key=lambda step: len(places[step].ranks) == 1):
            place, key = places[step], self._key_of(step)
            self.gains.expect(place.asked.values(), step.then)
            if len(place.ranks) > 1 and self.team.rank in place.ranks:
                self.gains.bring(key, place.asked, place.ranks, place.home)
            if place.home == self.team.rank:
                self.team.post(key, step.do())
                self.let_go()
            while rest and (rest[0] not in places or self.team.has(self._key_of(rest[0]))):
                yield self._noted(rest.pop(0))
        for step in rest:
            yield self._noted(step)

    def _noted(self, step: Visit) -> tuple[Visit, Any, bool]:
        done = self._done(step.at)
        if done is not None:
            return step, done, False
        return step, self._note(step.at, self.team.take(self._key_of(step))), True

    def _place_of(self, step: Visit) -> Spot:
        asked = step.asked()
        names = [leaf.parameter for leaves in asked.values() for leaf in leaves]
        ranks = self.shares.ranks_of(names) or [0]
        return Spot(asked, ranks, ranks[0])

    def _key_of(self, step: Visit) -> str:
        return "/".join(map(str, (self.name, *step.at)))

    def _objective(self, name: str) -> float:
        done = self._done([name])
        if done is None:
            self.watch.begin("objective")
            whole = self._read
            self._expect(read=whole)
            mine: dict[str, float] = {}
            for parameter, tensor in self.descent.a.items():
                if self.shares.rank_of(parameter) == self.team.rank:
                    mine[parameter] = self.gains.dot(parameter)
                    self.let_go(2 * tensor.nbytes)
                    self._did("read", 2 * tensor.nbytes)
                    whole -= 2 * tensor.nbytes
            found = {name: dot for each in self.team.gathered(mine) for name, dot in each.items()}
            self._did("read", whole)
            done = self._note([name], sum((found[parameter] for parameter in self.descent.a), 0.0))
        self.watch.begin("objective", objective=done)
        return float(done)

    def _work(self, root: str) -> float:
        return self._work_of({name: self.descent.leaves[name] for name in self.descent.units[root]})

    def _work_of(self, found: Mapping[Units, Sequence[Leaf]]) -> float:
        return work_of(self.descent.a, found)

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
