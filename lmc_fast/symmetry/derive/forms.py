"""Models in the form in which they are traced: a copy in eval mode, without weights where the model has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ..._copies import copied
from ..._references import deep_copied
from ..calls import with_tensors_changed

__all__ = ["Form", "form_of", "has_weights"]

# Of transformers: the only way to compute experts that keeps them in an axis of their own.
EXPERTS = "batched_mm"


@dataclass(frozen=True)
class Form:
    """A model to be traced.

    Attributes:
        module: a copy in eval mode.
        mode: in which its tensors have no numbers; None where they have.
    """

    module: nn.Module
    mode: FakeTensorMode | None

    def inputs(self, given: Any) -> Any:
        """What it is called with, in the form of its tensors."""
        mode = self.mode

        def change(tensor: Tensor) -> Tensor:
            return tensor.detach() if mode is None else _fake(tensor, mode)

        return with_tensors_changed(given, change)


def has_weights(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors hold numbers: none is on the meta device, or fake."""
    return not any(tensor.device.type == "meta" or isinstance(tensor, FakeTensor) for tensor in tensors.values())


def form_of(module: nn.Module, *, is_empty: bool) -> Form:
    """The form to trace.

    Args:
        module: left as it is.
        is_empty: whether it has no weights. Its tensors become fake ones on the CPU: what a forward pass makes by
            itself is there, and on the meta device the two would not go together.
    """
    if not is_empty:
        return Form(_traceable(copied(module).eval()), None)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers(), *_others(module)):
        memo[id(tensor)] = _fake(tensor, mode)
    return Form(_traceable(deep_copied(module, memo).eval()), mode)


def _others(module: nn.Module) -> list[Tensor]:
    """Tensors without numbers that parts of a module keep as plain attributes."""
    return [
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not has_weights({"": value})
    ]


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with torch.no_grad(), mode:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def _traceable(module: nn.Module) -> nn.Module:
    """A model of transformers with no cache of keys and values, an object that no graph has as an output, and with its
    experts computed side by side; any other as it is."""
    seen: set[int] = set()
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is None or id(config) in seen:
            continue
        seen.add(id(config))
        if getattr(config, "use_cache", None) is True:
            config.use_cache = False
        if getattr(config, "_experts_implementation_internal", None) in ("eager", "grouped_mm"):
            config._experts_implementation_internal = EXPERTS
    return module
