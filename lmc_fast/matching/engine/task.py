"""The task's loss of a model whose weights are given from outside, for methods that learn permutations by it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from ..._batches import Batch, check_batches
from ..._calls import NO_GRADIENT, Calls, Forward, LossFn, check_loss_fn, graph_of, with_gradient, with_weights
from ..._checks import fail_type
from ..._derived import bake
from ..._models import STATISTICS, copied, own_names, tensor_identity, tensors_of, unwrapped
from ..._modes import as_caller
from ..._norms import batchnorms, take_batch_statistics

__all__ = ["LossFn", "TaskLoss"]


class TaskLoss:
    """Losses of one architecture's forward pass, in eval mode but for BatchNorm, which takes a batch's statistics.

    Args:
        model: whose forward is used; copied once, so that the caller's modes and statistics stay as they are.
        batches: as the rule of `_batches` has them, gone through again and again.
        loss_fn: mean loss of a batch from (outputs, targets).
        names: the weights that will be given, effective ones in the place of what they are computed from, tied ones
            under any of their names.
        device: where to compute.
        forward: (model, batch) -> outputs; None: batches are read by the rule.
        argument: what the caller calls the batches.

    Raises:
        TypeError: a model that is no module, batches, a loss or a forward function of the wrong kind.
    """

    def __init__(
        self,
        model: object,
        batches: object,
        loss_fn: LossFn,
        names: Iterable[str],
        device: torch.device,
        forward: Forward | None = None,
        argument: str = "batches",
    ) -> None:
        if not isinstance(model, nn.Module):
            fail_type("model_a", "a torch.nn.Module, for a loss of the task", model)
        check_loss_fn(loss_fn)
        model = unwrapped("model_a", model)
        self.batches, self.argument, self.device = check_batches(argument, batches), argument, device
        self.calls = Calls(model, forward, loss_fn, device)
        self.module = copied(model).to(device).eval()
        # The weights that are given are those that the function sees.
        bake(self.module)
        self.module.requires_grad_(False)
        for part in self.module.modules():
            part.training = False
            if isinstance(part, nn.RNNBase) and device.type == "cuda":
                # cuDNN has a backward pass in training mode alone.
                part.training, part.dropout = True, 0.0
        unused = {f"{prefix}.{kind}".lstrip(".") for prefix, _ in batchnorms(self.module) for kind in STATISTICS}
        take_batch_statistics(self.module)
        state = tensors_of("model_a", self.module)
        self.dtypes = {name: state[name].dtype for name in names if name not in unused}
        # Names of one tied tensor, by its first.
        first: dict[Hashable, str] = {}
        self.first = {name: first.setdefault(tensor_identity(state[name]), name) for name in self.dtypes}
        self.parameters = list(first.values())
        self.own_names = own_names(self.module)
        buffers = {name for name, _ in self.module.named_buffers()}
        self.buffers = {name for name in self.dtypes if self.own_names.get(name, name) in buffers}
        # Whether the forward pass holds functions whose backward passes may run one of their own; None: not known.
        self._nested: bool | None = None

    def gradient(self, weights: Mapping[str, Tensor], batch: Batch) -> tuple[float, dict[str, Tensor]]:
        """The loss of one batch with these weights (of all `parameters`), and its gradient by each, in its dtype.

        The gradient by a weight that the loss does not depend on is zero.

        Raises:
            ValueError: a loss without a gradient.
        """
        leaves = {name: weights[name].detach().to(self.dtypes[name]).requires_grad_() for name in self.parameters}
        if self._nested is not False:
            # A part that is checkpointed by way of a backward pass of its own has no gradient unless its inputs have.
            batch = with_gradient(batch)

        def of(module: nn.Module) -> tuple[float, dict[str, Tensor | None]]:
            loss = self.calls.loss(self.calls.outputs(module, batch), batch)
            if not loss.requires_grad:
                raise ValueError(NO_GRADIENT)
            if self._nested is None:
                self._nested = any(isinstance(node, BackwardCFunction) for node in graph_of(loss))
            # In the caller's modes as the forward pass, parts of which may run again.
            with as_caller():
                if self._nested:
                    with _grads_kept(loss, leaves.values()):
                        loss.backward()  # type: ignore[no-untyped-call]
                    return loss.item(), {name: leaf.grad for name, leaf in leaves.items()}
                grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            return loss.item(), dict(zip(leaves, grads, strict=True))

        with torch.enable_grad():
            value, grads = with_weights(self.module, self._under_all_names(leaves), of)
        return value, {
            name: torch.zeros_like(weights[name]) if grad is None else grad.to(weights[name].dtype)
            for name, grad in grads.items()
        }

    def mean_loss(self, weights: Mapping[str, Tensor]) -> float:
        """The mean over the examples of all batches, without a gradient."""
        total, examples = 0.0, 0
        given = self._under_all_names({name: weights[name].detach().to(self.dtypes[name]) for name in self.parameters})
        with torch.no_grad():
            for batch in self.once():
                loss = with_weights(self.module, given, lambda module: self._loss(module, batch))  # noqa: B023
                total += float(loss) * batch.examples
                examples += batch.examples
        if examples == 0:
            raise ValueError(f"{self.argument} must hold one example at least, got none")
        return total / examples

    def once(self) -> Iterator[Batch]:
        """The batches, on the device; TypeError for one that the rule of `_batches` does not cover."""
        return self.calls.read(self.argument, self.batches)

    def _loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.calls.loss(self.calls.outputs(module, batch), batch)

    def _under_all_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the module is to hold, by its own names."""
        given = {}
        for name, first in self.first.items():
            tensor = tensors[first]
            # A forward pass may write to buffers: counters, ranges that were seen. No leaf of the graph can be.
            given[self.own_names.get(name, name)] = tensor.clone() if name in self.buffers else tensor
        return given


@contextmanager
def _grads_kept(loss: Tensor, wanted: Iterable[Tensor]) -> Iterator[None]:
    """Put the gradients of all tensors but the wanted ones back that a backward pass adds to."""
    ours = {id(tensor) for tensor in wanted}
    others = [node.variable for node in graph_of(loss) if hasattr(node, "variable") and id(node.variable) not in ours]
    kept = [tensor.grad for tensor in others]
    for tensor in others:
        tensor.grad = None
    try:
        yield
    finally:
        for tensor, grad in zip(others, kept, strict=True):
            tensor.grad = grad
