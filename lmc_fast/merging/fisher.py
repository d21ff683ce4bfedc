"""How much each entry of the weights counts for what a model says: the diagonal of the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._batches import Batch, check_batches, count_of
from .._calls import NO_GRADIENT, Calls, Forward, LossFn, check_loss_fn
from .._derived import derived_weights
from .._models import copied, own_names, tensor_identity, tensors_of, unwrapped
from .._modes import as_caller, neutral
from .._nested import mapped
from .._progress import Progress, tracking

__all__ = ["fisher_weights"]

OVER = ("examples", "batches")


@neutral
def fisher_weights(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss_fn: LossFn = nn.functional.cross_entropy,
    over: str = "examples",
    forward: Forward | None = None,
    progress: Progress = False,
) -> dict[str, Tensor]:
    """The mean square of the loss's gradient by every entry of the weights.

    With a loss that is a negative log-likelihood and one example at a time it is the diagonal of the empirical Fisher
    information, F_i = 1/N sum_n (d loss(x_n, y_n) / d theta_i)^2 (Matena, Raffel, "Merging Models with Fisher-Weighted
    Averaging", NeurIPS 2022, section 3), which `weight_matching`, `interpolate` and `merge` take as `entry_weights`.
    One backward pass an example: a few hundred examples do.

    Args:
        model: a module; left as it is. It runs in eval mode, on a copy.
        batches: (inputs, targets) pairs. `_batches` tells what else a batch may be. Over examples, tensors of a batch
            whose first dimension has as many entries as it has examples are cut into these.
        loss_fn: mean loss of a batch from (outputs, targets).
        over: "examples", or "batches": one backward pass a batch, whose gradient is squared and counts by the batch's
            examples. That is smaller where examples differ, and quick.
        forward: (model, batch) -> outputs, where a batch is not to be read by that rule.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        For every floating point parameter, by its name in the state dict, its weights: float32 (float64 where the
        parameter is), of its shape and on its device, 0 or more; zeros where the loss does not depend on it. Buffers
        have none. A tied parameter has one tensor under all of its names.

    Raises:
        TypeError: `model` is no module, or a batch is not covered by the rule.
        ValueError: no batches, an unknown `over`, a loss that has no gradient or is not finite, a model with weights
            that are computed from others (weight normalisation, pruning), or a batch that cannot be cut.
    """
    model = unwrapped("model", model)
    batches = check_batches("batches", batches, again=False)
    check_loss_fn(loss_fn)
    if over not in OVER:
        raise ValueError(f"over must be one of {', '.join(map(repr, OVER))}, got {over!r}")
    state = tensors_of("model", model)
    computed = next(iter(derived_weights(model, state)), None)
    if computed is not None:
        raise ValueError(f"model must have weights of its own, but {computed.name!r} is {computed.kind}: remove that")
    module = copied(model).eval()
    calls = Calls(module, forward, loss_fn)
    own = own_names(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    by_name = {name: parameters[own.get(name, name)] for name in state if own.get(name, name) in parameters}
    by_name = {name: parameter for name, parameter in by_name.items() if parameter.is_floating_point()}
    first = {tensor_identity(parameter): name for name, parameter in reversed(by_name.items())}
    points = {name: by_name[name].requires_grad_() for name in first.values()}
    sums = {name: torch.zeros_like(point, dtype=_sum_dtype(point)) for name, point in points.items()}
    examples = 0
    with tracking(progress, "Fisher weights", count_of(batches)) as advance:
        for batch in calls.read("batches", batches):
            for part in _singly(batch) if over == "examples" else [batch]:
                for name, gradient in _gradient(module, calls, points, part).items():
                    sums[name].add_(gradient.to(sums[name].dtype).square_(), alpha=part.examples)
                examples += part.examples
            advance("")
    if examples == 0:
        raise ValueError("batches must hold one example at least, got none")
    means = {name: total.div_(examples) for name, total in sums.items()}
    return {name: means[first[tensor_identity(parameter)]] for name, parameter in by_name.items()}


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _gradient(module: nn.Module, calls: Calls, points: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    loss = calls.loss(calls.outputs(module, batch), batch)
    if not loss.requires_grad:
        raise ValueError(NO_GRADIENT)
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss must be finite, got {loss.item()} in {batch.where}")
    with as_caller():
        found = torch.autograd.grad(loss, list(points.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(points, found, strict=True) if gradient is not None}


def _singly(batch: Batch) -> Iterable[Batch]:
    """The examples of a batch, each a batch of one."""
    if batch.examples == 1:
        yield batch
        return
    for i in range(batch.examples):
        cut = False

        def one(leaf: Any, i: int = i) -> Any:
            nonlocal cut
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch.examples:
                cut = True
                return leaf[i : i + 1]
            return leaf

        args, kwargs, targets, whole = (
            mapped(part, one) for part in (batch.args, batch.kwargs, batch.targets, batch.whole)
        )
        if not cut:
            raise ValueError(
                f"{batch.where} must hold tensors with one row for each of its {batch.examples} examples, to be cut: "
                "give batches of one example, or over='batches'"
            )
        where = f"{batch.where}, example {i}"
        yield replace(batch, where=where, args=args, kwargs=kwargs, targets=targets, whole=whole, examples=1)
