"""A whole model moved, tensor by tensor: what choices of every kind share."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from .._models import ModelT, tensors_of, unsaved_buffers, unwrapped, with_tensors
from .pure import check_pure
from .spec import PermutationSpec

__all__ = ["applied"]

ChoiceT = TypeVar("ChoiceT", bound="_Choice")


class _Choice(Protocol):
    @property
    def spec(self) -> PermutationSpec: ...

    def apply_to(self, parameter: str, tensor: Tensor) -> Tensor: ...

    def bound_to(self: ChoiceT, spec: PermutationSpec) -> ChoiceT: ...


def applied(choice: ChoiceT, model: ModelT) -> ModelT:
    """A new model whose units are moved by `choice`; see `Permutations.apply`, which says what is raised."""
    if isinstance(model, nn.Module):
        model = unwrapped("model", model)  # type: ignore[assignment]
    tensors = tensors_of("model", model)
    bound = choice.spec.bind(model)
    check_pure("model", tensors, bound)
    # The model may have running statistics that the one which the spec was bound to had not.
    mine = choice if bound == choice.spec else choice.bound_to(bound)
    moved = {
        name: mine.apply_to(name, tensor) if name in bound.axes else tensor.clone() for name, tensor in tensors.items()
    }
    result = with_tensors(model, moved)
    if isinstance(model, nn.Module) and isinstance(result, nn.Module) and bound.unsaved:
        new, old = unsaved_buffers(result), unsaved_buffers(model)
        with torch.no_grad():
            for name in bound.unsaved:
                new[name].copy_(mine.apply_to(name, old[name]))
    return result
