"""Weighted sums of state dicts whose tensors are moved first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._derived import Derived
from .._tensors import FLOATS
from ..ops.permuted_lerp import permuted_lerp_many
from ..symmetry import Permutations, Transforms
from ..symmetry.transforms import Choice

__all__ = ["weighted"]


def _shaped(tensor: Tensor, shape: torch.Size) -> Tensor:
    # Most have it already: of hundreds of small tensors each call counts.
    return tensor if tensor.shape == shape else tensor.reshape(shape)


def weighted(
    tensors: Sequence[dict[str, Tensor]],
    weights: Sequence[Sequence[float]],
    choices: Sequence[Choice | None],
    backend: str,
    derived: Sequence[Derived],
) -> list[dict[str, Tensor]]:
    """For every row of weights the sums of all floating tensors; what is not summed is the first model's."""
    parts: list[list[Tensor]] = []
    gathers: list[list[tuple[Tensor | None, ...]]] = []
    # By the name of each sum the tensor that tells its axes.
    names = {name: name for name, first in tensors[0].items() if first.dtype in FLOATS}
    averaged = [one for one in derived if one.is_averaged]
    if averaged:
        names |= {one.name: one.main for one in averaged}
        tensors = [{**model, **{one.name: one.effective(model) for one in averaged}} for model in tensors]
    for name, told in names.items():
        first = tensors[0][name]
        shape = next((c.spec.view(told, first).shape for c in choices if c is not None), first.shape)
        parts.append([])
        gathers.append([])
        for model, choice in zip(tensors, choices, strict=True):
            tensor = model[name]
            gather: tuple[Tensor | None, ...] = (None,) * len(shape)
            if isinstance(choice, Permutations) and choice.spec.view(told, tensor).shape == shape:
                gather = choice.gathers(told)
            elif choice is not None:
                # What turns; or a spec that takes this tensor's dimensions together in another way than the first one.
                turns = isinstance(choice, Transforms) and tensor.dtype.itemsize < 4
                tensor = choice.apply_to(told, tensor.float() if turns else tensor)
            parts[-1].append(_shaped(tensor, shape))
            gathers[-1].append(gather)
    merged = []
    for shares, row in zip(weights, permuted_lerp_many(parts, weights, gathers, backend=backend), strict=True):
        sums = dict(zip(names, row, strict=True))
        state = {
            name: first.clone() if name not in sums else _shaped(sums[name], first.shape)
            for name, first in tensors[0].items()
        }
        for one in derived:
            # One model alone stays what it was.
            if sorted(shares)[-1] != 1.0 or any(share not in (0.0, 1.0) for share in shares):
                state |= one.settled(state, state[one.name] if one.is_averaged else state[one.main])
        for one in averaged:
            del state[one.name]
        merged.append(state)
    return merged
