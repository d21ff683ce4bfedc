"""Which entries of which axes a tensor holds that is computed from parameters alone.

A weight reaches the product that it is used in by way of views, casts, slices, concatenations, masks and
normalisations. What each of these does to entries is asked of the operation itself: it is run on the entries' numbers
in the place of their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...symmetry import PermutationSpec

__all__ = ["AxisKey", "Labels", "is_pointwise", "labels_of", "packet_name", "placed", "through"]

# A parameter and which of the spec's axes.
AxisKey = tuple[str, int]
# In the place of an entry's number: none of this axis.
NONE = -1


class Labels:
    """What is known of a tensor that is computed from parameters alone.

    Args:
        shape: the tensor's.
        of: by axis the number that each entry has along it: int64, of the tensor's number of dimensions, of length 1
            along those that do not tell.
    """

    def __init__(self, shape: Sequence[int], of: Mapping[AxisKey, Tensor]) -> None:
        self.shape, self.of = tuple(shape), dict(of)
        # What operations make of it, by what was asked: the same comes again with every batch.
        self.known: dict[Any, Any] = {}

    def whole(self, key: AxisKey) -> Tensor:
        """The numbers of all entries along one axis."""
        numbers = self.of.get(key)
        if numbers is None:
            return torch.full((), NONE).expand(self.shape)
        return numbers.expand(self.shape)


def labels_of(spec: PermutationSpec, parameter: str, shape: Sequence[int]) -> Labels:
    """Of a parameter itself: its axes that are not fixed."""
    found, start = {}, 0
    for position, axis in enumerate(spec.axes[parameter]):
        extents = list(shape[start : start + axis.dims])
        if not axis.is_fixed:
            numbers = torch.arange(torch.Size(extents).numel()).reshape(extents)
            behind = len(shape) - start - axis.dims
            found[parameter, position] = numbers.reshape([1] * start + extents + [1] * behind)
        start += axis.dims
    return Labels(shape, found)


def placed(numbers: Tensor, where: Mapping[int, int], ndim: int) -> Tensor | None:
    """Numbers over a weight's dimensions as numbers over those of a value.

    Args:
        where: for a weight's dimension that of the value, counted from its end.
        ndim: of the value.

    Returns:
        Of `ndim` dimensions; None where they run over a dimension that the value does not have.
    """
    varying = [dim for dim, size in enumerate(numbers.shape) if size != 1]
    if any(dim not in where for dim in varying):
        return None
    order = sorted(varying, key=lambda dim: where[dim])
    shape = [1] * ndim
    for dim in order:
        shape[where[dim]] = numbers.shape[dim]
    return numbers.squeeze().permute(_ranks(varying, order)).reshape(shape)


def _ranks(varying: Sequence[int], order: Sequence[int]) -> list[int]:
    return [varying.index(dim) for dim in order]


def packet_name(func: Any) -> str:
    """An operation's name without its overload's: "aten.mm"."""
    return f"{func.namespace}.{func.overloadpacket.__name__}"


def is_pointwise(func: Any) -> bool:
    """Whether each entry of the result comes of the entries at its place alone."""
    return torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in ("_to_copy", "clone", "to")


# Results hold entries of their arguments, each as it was.
_MOVING = frozenset(
    {
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "cat",
        "constant_pad_nd",
        "detach",
        "diagonal",
        "expand",
        "flip",
        "gather",
        "index",
        "index_select",
        "lift_fresh",
        "permute",
        "repeat",
        "roll",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "t",
        "transpose",
        "tril",
        "triu",
        "unbind",
        "unsqueeze",
        "view",
    }
)


def through(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], find: Callable[[Tensor], Labels]) -> list[Any]:
    """The labels of an operation's results, where all tensors that go in are computed from parameters alone.

    Args:
        find: the labels of a tensor that goes in.

    Returns:
        For each result its numbers by axis, or None where nothing is known of what the operation does to entries.
    """
    given = [find(tensor) for tensor in _tensors((args, kwargs))]
    keys = list(dict.fromkeys(key for labels in given for key in labels.of))
    name = func.overloadpacket.__name__
    if is_pointwise(func):
        return [_merged(given, keys)]
    if name == "_weight_norm_interface":
        return [_merged(given, keys), {}]
    if name not in _MOVING:
        return [None]
    found: list[dict[AxisKey, Tensor]] = []
    for key in keys:

        def numbered(leaf: Any, key: AxisKey = key) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            # Integers are places to take entries from.
            return find(leaf).whole(key) if leaf.is_floating_point() else leaf.cpu()

        given_numbers = tree_map(numbered, args)
        if name in ("view", "_unsafe_view", "_reshape_alias"):
            # The numbers lie otherwise in memory.
            moved = given_numbers[0].reshape(given_numbers[1])
        elif name in ("tril", "triu"):
            # What is left out of a weight is 0 there, and no unit's less for that.
            moved = given_numbers[0]
        elif name == "constant_pad_nd":
            moved = func(*given_numbers[:2], NONE)
        else:
            moved = func(*given_numbers, **kwargs)
        results = moved if isinstance(moved, (list, tuple)) else [moved]
        found += [{} for _ in range(len(results) - len(found))]
        for of, result in zip(found, results, strict=True):
            small = _varying(result)
            if small.numel() > 1 or bool((small != NONE).any()):
                of[key] = small
    return found


def _tensors(values: Any) -> Iterable[Tensor]:
    return (leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor))


def _varying(numbers: Tensor) -> Tensor:
    """Numbers with length 1 along the dimensions that do not tell."""
    for dim, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        if size > 1 and (stride == 0 or bool((numbers == numbers.narrow(dim, 0, 1)).all())):
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def _merged(given: Sequence[Labels], keys: Iterable[AxisKey]) -> dict[AxisKey, Tensor]:
    """Of tensors laid over each other; an axis of which two say different things is not known."""
    ndim = max(len(labels.shape) for labels in given)
    found: dict[AxisKey, Tensor] = {}
    for key in keys:
        some = [labels.of[key] for labels in given if key in labels.of]
        some = [numbers.reshape([1] * (ndim - numbers.ndim) + list(numbers.shape)) for numbers in some]
        if all(numbers.shape == some[0].shape and torch.equal(numbers, some[0]) for numbers in some[1:]):
            found[key] = some[0]
    return found
