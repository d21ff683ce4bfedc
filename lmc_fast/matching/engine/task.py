"""The task's loss of a model whose weights are given from outside, for methods that learn permutations by it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..._checks import fail_type
from ..._models import STATISTICS, check_batches, tensor_identity, tensors_of

__all__ = ["LossFn", "TaskLoss"]

LossFn = Callable[[Tensor, Tensor], Tensor]


class TaskLoss:
    """Losses of one architecture's forward pass, in eval mode but for BatchNorm, which takes a batch's statistics.

    Args:
        model: whose forward is used; copied once, so that the caller's modes and statistics stay as they are.
        batches: (inputs, targets) pairs, gone through again and again.
        loss_fn: mean loss of a batch from (outputs, targets).
        names: the weights that will be given, tied ones under any of their names.
        device: where to compute.

    Raises:
        TypeError: a model that is no module, batches or a loss function of the wrong kind.
    """

    def __init__(
        self, model: object, batches: object, loss_fn: object, names: Iterable[str], device: torch.device
    ) -> None:
        if not isinstance(model, nn.Module):
            fail_type("model_a", "a torch.nn.Module, for a loss of the task", model)
        if not callable(loss_fn):
            fail_type("loss_fn", "a function of (outputs, targets)", loss_fn)
        self.batches, self.loss_fn, self.device = check_batches("batches", batches), loss_fn, device
        self.module = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        unused = set()
        for prefix, layer in self.module.named_modules():
            if isinstance(layer, _BatchNorm):
                layer.training = True
                unused |= {f"{prefix}.{kind}".lstrip(".") for kind in STATISTICS}
        state = tensors_of("model_a", model)
        self.dtypes = {name: state[name].dtype for name in names if name not in unused}
        # Names of one tied tensor, by its first.
        first: dict[Hashable, str] = {}
        self.first = {name: first.setdefault(tensor_identity(state[name]), name) for name in self.dtypes}
        self.parameters = list(first.values())

    def loss(self, weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of one batch with these weights (of all `parameters`): one number, with a gradient if they have."""
        tensors = {name: weights[first].to(self.dtypes[name]) for name, first in self.first.items()}
        value: Tensor = self.loss_fn(functional_call(self.module, tensors, (inputs,)), targets)
        if value.numel() != 1:
            raise ValueError(f"loss_fn must return one number, the mean loss, got shape {tuple(value.shape)}")
        return value

    def mean_loss(self, weights: Mapping[str, Tensor]) -> float:
        """The mean over the examples of all batches, without a gradient."""
        total, examples = 0.0, 0
        with torch.no_grad():
            for inputs, targets in self.once():
                total += float(self.loss(weights, inputs, targets)) * len(targets)
                examples += len(targets)
        if examples == 0:
            raise ValueError("batches must hold one example at least, got none")
        return total / examples

    def once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, on the device; TypeError for what is no pair of tensors."""
        for batch in self.batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                fail_type("batches", "(inputs, targets) pairs", batch)
            inputs, targets = batch
            for part in (inputs, targets):
                if not isinstance(part, Tensor):
                    fail_type("batches", "(inputs, targets) pairs of tensors", part)
            yield inputs.to(self.device), targets.to(self.device)
