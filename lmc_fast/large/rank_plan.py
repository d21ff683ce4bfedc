"""What each group takes, and what each of several processes has of it, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .amounts import duration, in_bytes, short
from .shares import Shares, tree
from .watch import Rates, Work

__all__ = ["BASE_BYTES", "SWEEPS", "GroupPlan", "RankPlan", "shared_plan"]

# Sweeps over all groups that the expected time counts with: the pass outwards, and one in which something moved.
SWEEPS = 2
# A process of torch before it has done anything, about.
BASE_BYTES = 300 << 20
# Bytes of an entry of a partial gain, as ranks send it.
WHOLE_BYTES = 8
# Bytes of them that one gets in a second, of which nothing is measured.
NETWORK = 1e9
# Ranks up to so many have a line each.
MOST_LINES = 16


@dataclass(frozen=True)
class GroupPlan:
    """One root group with all that it owns.

    Attributes:
        name: of the root.
        units: of each group of the tree, in all units of its owners.
        tensors: that it shows up in.
        parts: how many parts these lie in (see `shares`).
        read: bytes of these, of both models.
        operations: of the products that its gains take.
        memory: bytes of its gains, operands and assignments.
        gain: entries of its gains.
    """

    name: str
    units: Mapping[str, int]
    tensors: tuple[str, ...]
    parts: int
    read: int
    operations: float
    memory: int
    gain: int


@dataclass(frozen=True)
class RankPlan:
    """What each process of several does: tensors by bytes and by group, and what is exchanged in a sweep.

    Attributes:
        owner: for each tensor the rank that has it.
        groups_apart: root groups whose tensors are all on one rank, which solves them and sends no gain.
        read: by rank, the bytes of its tensors, of all models.
        operations: by rank, of the products that it takes in a sweep over all groups.
        sent, received: by rank, bytes of partial gains in a sweep over all groups.
        choices: bytes that all ranks are told in a sweep in which every group moves.
        memory: by rank, the process's own at its largest.
        seconds: about how long a run takes, where each rank has a machine like this one.
    """

    owner: Mapping[str, int]
    groups_apart: int
    read: tuple[int, ...]
    operations: tuple[float, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    choices: int
    memory: tuple[int, ...]
    seconds: float

    @property
    def ranks(self) -> int:
        """How many processes."""
        return len(self.read)

    @property
    def traffic(self) -> int:
        """Bytes of partial gains that go from process to process in a sweep over all groups."""
        return sum(self.sent)

    def lines(self, groups: int) -> list[str]:
        """What is printed of it, of so many root groups."""
        tensors = [0] * self.ranks
        for rank in self.owner.values():
            tensors[rank] += 1
        rows: list[tuple[str, Sequence[float]]] = [
            (str(rank), (tensors[rank], *(column[rank] for column in self._columns()))) for rank in range(self.ranks)
        ]
        if self.ranks > MOST_LINES:
            columns = [tensors, *self._columns()]
            rows = [
                (name, [of(column) for column in columns])
                for name, of in (("least", min), ("mean", lambda c: sum(c) / len(c)), ("most", max))
            ]
        found = [
            f"on {self.ranks} ranks: {self.groups_apart} groups are solved where all their tensors are, "
            f"{groups - self.groups_apart} from partial gains of several ranks",
            "",
            f"{'rank':<6} {'tensors':>7} {'reads':>9} {'products':>10} {'sends':>9} {'receives':>9} {'memory':>9}",
        ]
        for name, (held, read, operations, sent, received, memory) in rows:
            found.append(
                f"{name:<6} {held:>7.0f} {in_bytes(read):>9} {short(operations) + 'FLOP':>10} {in_bytes(sent):>9} "
                f"{in_bytes(received):>9} {in_bytes(memory):>9}"
            )
        return [
            *found,
            "",
            f"in a sweep over all groups {in_bytes(self.traffic)} of partial gains are sent, and each rank is told "
            f"{in_bytes(self.choices)} of choices",
            f"expected: {duration(self.seconds)}, where each rank has such a machine and gets {in_bytes(NETWORK)}/s "
            "from others",
        ]

    def _columns(self) -> tuple[Sequence[float], ...]:
        return self.read, self.operations, self.sent, self.received, self.memory


def shared_plan(
    groups: Sequence[GroupPlan], shares: Shares, models: int, ranks: int, work: Work, rates: Rates
) -> RankPlan:
    """How a run is shared out: what each rank does with the parts that it has.

    Args:
        work: of one process.
    """
    read, memory = [0] * ranks, [BASE_BYTES] * ranks
    done, sent, received = [0.0] * ranks, [0] * ranks, [0] * ranks
    apart = 0
    for name, size in shares.nbytes.items():
        read[shares.rank_of(name)] += models * size
    for group in groups:
        size = sum(shares.nbytes[name] for name in group.tensors) or 1
        for name in group.tensors:
            done[shares.rank_of(name)] += group.operations * shares.nbytes[name] / size
        home, *others = shares.ranks_of(group.tensors) or [0]
        apart += not others
        for rank in (home, *others):
            memory[rank] = max(memory[rank], BASE_BYTES + group.memory)
            below, above = tree(home, others, rank)
            received[rank] += len(below) * WHOLE_BYTES * group.gain
            sent[rank] += 0 if above is None else WHOLE_BYTES * group.gain
    # As text of 6 bits a letter.
    choices = sum(-(-16 * units // 3) for group in groups for units in group.units.values())
    return RankPlan(
        {name: shares.rank_of(name) for name in shares.nbytes},
        apart,
        tuple(read),
        tuple(done),
        tuple(sent),
        tuple(received),
        choices,
        tuple(memory),
        Work(
            read=work.read * max(read) / (sum(read) or 1),
            written=work.written / ranks,
            operations=work.operations * max(done) / (sum(done) or 1),
        ).seconds(rates)
        + SWEEPS * (models - 1) * max(received) / NETWORK,
    )
