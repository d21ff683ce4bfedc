"""Statistics that a merged model needs anew: BatchNorm re-estimation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sized
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._checks import check_type, fail_type
from ._models import check_batches, device_of, modes_kept
from ._progress import Progress, tracking

__all__ = ["has_batchnorm", "reestimate_batchnorm", "reestimate_in_place"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model holds a BatchNorm that keeps running statistics."""
    return any(True for _ in _tracked(model))


def reestimate_batchnorm(model: ModuleT, batches: Iterable[Any], *, progress: Progress = False) -> ModuleT:
    """A copy of `model` whose BatchNorm statistics are those of `batches`.

    The mean of a merged model's activations is not the mean of its parents' means, and their variance is smaller
    (Jordan et al., "REPAIR", ICLR 2023, section 3): running statistics have to be measured again. They are averaged
    over the batches with equal weights (momentum None); everything else runs in eval mode, without gradients.

    Args:
        model: a module; left as it is. One without BatchNorm comes back as a plain copy.
        batches: inputs, or (inputs, targets) pairs, of one batch each; one batch at least.

    Returns:
        A new module, in the training mode that `model` is in.

    Raises:
        TypeError: `model` is no module, or `batches` is a batch itself.
        ValueError: no batches.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    batches = check_batches("batches", batches)
    module = copy.deepcopy(model)
    module.zero_grad(set_to_none=True)
    reestimate_in_place(module, batches, progress=progress)
    return module


def reestimate_in_place(module: nn.Module, batches: Iterable[Any], *, progress: Progress = False) -> None:
    """As `reestimate_batchnorm`, on the module itself."""
    layers = list(_tracked(module))
    if not layers:
        return
    momenta = {layer: layer.momentum for layer in layers}
    device = device_of(module)
    seen = 0
    total = len(batches) if isinstance(batches, Sized) else 0
    with modes_kept(module), torch.no_grad(), tracking(progress, "BatchNorm statistics", total) as advance:
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            # Not layer.train(): layers that are kept frozen override it, and these are asked for as well.
            layer.training = True
        try:
            for batch in batches:
                inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
                if not isinstance(inputs, Tensor):
                    fail_type("batches", "inputs or (inputs, targets) pairs, as tensors", inputs)
                module(inputs.to(device))
                seen += 1
                advance("")
        finally:
            for layer, momentum in momenta.items():
                layer.momentum = momentum
    if seen == 0:
        raise ValueError("batches must hold one batch at least, got none")


def _tracked(module: nn.Module) -> Iterable[_BatchNorm]:
    return (m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)
