"""Which tensors go together, and which process of several has which: the same for everyone who asks.

Tensors are put in *parts*, which do not depend on how many processes there are. A group all of whose tensors are in one
part has its gain summed there, by whoever has the part; the gain of another is a sum over parts, which comes out the
same in any order (see `parted`). Parts are then dealt out by bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..symmetry import PermutationSpec

__all__ = ["Shares", "parts_of", "shared_out", "tree"]

# Of all bytes: tensors of one group are kept together as long as no part has more than this share of them,
LARGEST = 1 / 4
# and what has no more than this goes with others: each part costs a pass over the gains that it adds to.
SMALLEST = 1 / 256


@dataclass(frozen=True)
class Shares:
    """Parts of the tensors, and the process that has each.

    Attributes:
        part_of: for each tensor the number of its part.
        owner: for each part the rank that has it.
        nbytes: of each tensor.
    """

    part_of: Mapping[str, int]
    owner: tuple[int, ...]
    nbytes: Mapping[str, int]

    def rank_of(self, name: str) -> int:
        """The rank that has a tensor; rank 0 has those in no part."""
        part = self.part_of.get(name)
        return 0 if part is None else self.owner[part]

    def ranks_of(self, names: Iterable[str]) -> list[int]:
        """The ranks that have any of some tensors, the one with the most bytes of them first."""
        held: dict[int, int] = {}
        for name in names:
            rank = self.rank_of(name)
            held[rank] = held.get(rank, 0) + self.nbytes.get(name, 0)
        return sorted(held, key=lambda rank: (-held[rank], rank))


def parts_of(spec: PermutationSpec, shapes: Mapping[str, Tensor], left_out: Collection[str] = ()) -> list[list[str]]:
    """Tensors in parts, each in the order of `shapes`.

    Groups with the largest gains come first; the tensors of one are joined where what that makes is not too large. For
    a transformer the parts are each layer's attention, each layer's hidden units, embeddings, and all that is small.

    Args:
        spec: bound.
        shapes: every tensor, on the meta device or not.
        left_out: names that are other names of tensors.
    """
    names = [name for name in shapes if name not in left_out]
    size = {name: shapes[name].nbytes for name in names}
    total = sum(size.values())
    part = {name: [name] for name in names}
    touched: dict[str, dict[str, None]] = {root: {} for root in spec.roots}
    for name in names:
        for roots in spec.roots_of(name) if name in spec.axes else ():
            for root in roots:
                touched[root][name] = None
    weight = dict.fromkeys(spec.roots, 0)
    for group in spec.groups:
        weight[spec.root_of(group)] += spec.units(group) ** 2
    for root in sorted(spec.roots, key=lambda root: -weight[root]):
        joined = {id(part[name]): part[name] for name in touched[root]}
        if len(joined) < 2 or sum(size[name] for some in joined.values() for name in some) > LARGEST * total:
            continue
        whole = [name for some in joined.values() for name in some]
        part |= dict.fromkeys(whole, whole)
    parts: list[list[str]] = []
    small: list[str] = []
    for some in {id(part[name]): part[name] for name in names}.values():
        held = sum(size[name] for name in some)
        if held > SMALLEST * total:
            parts.append(some)
            continue
        if not small or held + sum(size[name] for name in small) > SMALLEST * total:
            small = []
            parts.append(small)
        small.extend(some)
    place = {name: k for k, name in enumerate(names)}
    return [sorted(some, key=place.__getitem__) for some in parts]


def shared_out(parts: Sequence[Sequence[str]], shapes: Mapping[str, Tensor], ranks: int) -> Shares:
    """Deal parts out to so many ranks by bytes: the largest first, each to the rank that has the fewest so far."""
    nbytes = {name: shapes[name].nbytes for part in parts for name in part}
    sizes = [sum(nbytes[name] for name in part) for part in parts]
    held = [0] * ranks
    owner = [0] * len(parts)
    for k in sorted(range(len(parts)), key=lambda k: (-sizes[k], k)):
        owner[k] = held.index(min(held))
        held[owner[k]] += sizes[k]
    return Shares({name: k for k, part in enumerate(parts) for name in part}, tuple(owner), nbytes)


def tree(home: int, ranks: Sequence[int], rank: int) -> tuple[list[int], int | None]:
    """From which ranks one of a binomial tree gets something, and to which it sends that; None at its root.

    Args:
        home: the root.
        ranks: the others (and it).
        rank: one of these.
    """
    members = [home, *(other for other in sorted(set(ranks)) if other != home)]
    place, below, step = members.index(rank), list[int](), 1
    while step < len(members):
        if place & step:
            return below, members[place - step]
        if place + step < len(members):
            below.append(members[place + step])
        step *= 2
    return below, None
