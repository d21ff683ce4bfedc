"""What of two checkpoint files is matched, and what goes into the file of the aligned one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .._tensors import FLOATS
from ..symmetry import PermutationSpec
from .files import Checkpoint, tied_names

__all__ = ["MatchedPart", "aligned_tensors", "matched_part"]


@dataclass(frozen=True, eq=False)
class MatchedPart:
    """What is matched of two checkpoints: all but the entries that no group touches and that are no weights.

    Attributes:
        spec: without the entries that are left aside.
        tensors_a, tensors_b: likewise.
    """

    spec: PermutationSpec
    tensors_a: dict[str, Tensor]
    tensors_b: dict[str, Tensor]


def matched_part(
    spec: PermutationSpec, tensors_a: Mapping[str, Tensor], tensors_b: Mapping[str, Tensor]
) -> MatchedPart:
    """Leave aside integers, complex numbers and floats of 8 bits that no group touches, where both files have such.

    They count in no distance and move with no unit, and one file may have them where the other has not.
    """

    def is_aside(name: str) -> bool:
        kinds = [tensors[name].dtype for tensors in (tensors_a, tensors_b) if name in tensors]
        return all(axis.is_fixed for axis in spec.axes.get(name, ())) and not set(kinds) & set(FLOATS)

    aside = {name for name in (*tensors_a, *tensors_b) if is_aside(name)}
    axes = {name: entries for name, entries in spec.axes.items() if name not in aside}
    a, b = ({n: tensor for n, tensor in tensors.items() if n not in aside} for tensors in (tensors_a, tensors_b))
    return MatchedPart(PermutationSpec(spec.groups, axes, folds=spec.folds), a, b)


def aligned_tensors(file_b: Checkpoint, permuted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of b's file, in the form that it has them: permuted, or as they are where they were left aside.

    Names of one tensor stay names of one, and those that b's file only mentions are not written.
    """
    tensors = {name: permuted.get(name, tensor) for name, tensor in file_b.tensors.items()}
    for first, *others in tied_names(file_b.tensors):
        tensors |= dict.fromkeys(others, tensors[first])
    return {name: tensor for name, tensor in tensors.items() if name not in file_b.aliases}
