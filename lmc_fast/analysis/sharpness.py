"""How sharp a minimum is: the trace of the loss's Hessian, by random probes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._batches import check_batches, count_of
from .._calls import Calls, Forward, LossFn, check_loss_fn
from .._checks import check_int
from .._derived import bake, derived_weights, effective_tensors
from .._models import copied, own_names, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result
from .evaluation import first_names
from .taylor import HessianProducts

__all__ = ["HessianTrace", "hessian_trace"]


@dataclass(frozen=True)
class HessianTrace(Result):
    """The trace of the Hessian of a mean loss, estimated.

    Attributes:
        trace: the mean of v^T H v over the probes.
        standard_error: of that mean, from how much the probes differ.
        loss: the mean loss there.
        probes: how many.
        parameters: how many numbers the loss was differentiated by.
    """

    trace: float
    standard_error: float
    loss: float
    probes: int
    parameters: int

    @property
    def per_parameter(self) -> float:
        """The mean curvature: trace / parameters."""
        return self.trace / self.parameters

    def __str__(self) -> str:
        return (
            f"trace of the Hessian {self.trace:.4g} +- {self.standard_error:.2g} (standard error of {self.probes} "
            f"probes), {self.per_parameter:.3g} for each of {self.parameters} parameters; loss {self.loss:.4f}"
        )


@neutral
def hessian_trace(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    probes: int = 32,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> HessianTrace:
    """Sharpness: the trace of the Hessian of the mean loss by the parameters.

    Hutchinson's estimator ("A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines", 1990): E[v^T H v] = tr H over vectors v of random signs. Its variance is that of the entries beside the
    diagonal, 2 (||H||^2 - ||diag H||^2), which the standard error tells. The same probes go over all batches.

    Args:
        model: a module; left as it is. It runs in eval mode, on a copy, at its effective weights; tied parameters count
            once, buffers not.
        batches: (inputs, targets) pairs, gone through once. `_batches` tells what else a batch may be.
        probes: how many vectors, two at least: each takes one product with the Hessian a batch. The error falls as
            their root.
        loss_fn, forward: as of `evaluate`; the loss must be twice differentiable.
        seed: of the probes; the global generators are neither read nor moved.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Raises:
        TypeError: `model` is no module, or a batch is not covered by the rule.
        ValueError: no batches, fewer than two probes, or a loss that has no second derivative.
    """
    model = unwrapped("model", model)
    batches = check_batches("batches", batches, again=False)
    check_loss_fn(loss_fn)
    check_int("probes", probes, 2)
    check_int("seed", seed, 0)
    state = tensors_of("model", model)
    derived = derived_weights(model, state)
    module = copied(model).eval()
    if derived:
        state = effective_tensors(state, derived)
        bake(module)
    own, parameters = own_names(module), dict(module.named_parameters())
    point = {own.get(name, name): state[name] for name in first_names(module)}
    shapes = {name: point[name] for name in point if name in parameters and point[name].is_floating_point()}
    products = HessianProducts(module, Calls(module, forward, loss_fn))
    sums, loss_sum, examples = [0.0] * probes, 0.0, 0
    with tracking(progress, "Hessian's trace", probes * count_of(batches)) as advance:
        for batch in products.calls.read("batches", batches):
            for k in range(probes):
                signs = _signs(shapes, seed, k)
                loss, _, product = products(point, signs, batch)
                value = sum(float((signs[name].double() * product[name].double()).sum()) for name in signs)
                sums[k] += batch.examples * value
                advance("", loss=float(loss))
            loss_sum += batch.examples * float(loss)
            examples += batch.examples
    if examples == 0:
        raise ValueError("batches must hold one example at least, got none")
    found = torch.tensor(sums, dtype=torch.float64) / examples
    return HessianTrace(
        trace=float(found.mean()),
        standard_error=float(found.std()) / math.sqrt(probes),
        loss=loss_sum / examples,
        probes=probes,
        parameters=sum(tensor.numel() for tensor in shapes.values()),
    )


def _signs(shapes: dict[str, Tensor], seed: int, probe: int) -> dict[str, Tensor]:
    """Random signs of the parameters' shapes, dtypes and devices."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + probe)
    # In an order that does not depend on how the module came to be.
    drawn = {name: torch.randint(0, 2, shapes[name].shape, generator=generator) for name in sorted(shapes)}
    return {name: (2 * bits - 1).to(shapes[name]) for name, bits in drawn.items()}
