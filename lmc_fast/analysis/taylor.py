"""The barrier as the two ends' second-order expansions foretell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._checks import check_type
from .._models import Model, check_batches, check_same_tensors, device_of, modes_kept, tensors_of
from .._progress import Progress, tracking
from .barrier import lambdas_of
from .evaluation import LossFn, check_loss_fn, first_names, pair_of
from .layers import Match, permutations_of

__all__ = ["EndExpansion", "TaylorBarrier", "hessian_vector_product", "taylor_barrier"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EndExpansion:
    """The loss at one end and its derivatives along mu = pi(theta_b) - theta_a.

    Attributes:
        loss: L.
        slope: g^T mu.
        curvature: mu^T H mu.
    """

    loss: float
    slope: float
    curvature: float


@dataclass(frozen=True, eq=False)
class TaylorBarrier:
    """B2(lam) = lam (1 - lam) [(g_a - g_b)^T mu + 1/2 (lam mu^T H_a mu + (1 - lam) mu^T H_b mu)].

    Attributes:
        lambdas: float64 [points], rising; 0, 1/2 and 1 are among them.
        a, b: the expansions that it is made of.
    """

    lambdas: Array
    a: EndExpansion
    b: EndExpansion

    @property
    def excess(self) -> Array:
        """B2 at every lambda: float64 [points]."""
        lam = self.lambdas
        curved = lam * self.a.curvature + (1.0 - lam) * self.b.curvature
        excess: Array = lam * (1.0 - lam) * (self.a.slope - self.b.slope + 0.5 * curved)
        return excess

    @property
    def barrier(self) -> float:
        """The largest of them (0 at least, as the ends are among them)."""
        return float(self.excess.max())

    @property
    def midpoint_barrier(self) -> float:
        """B2(1/2)."""
        return float(self.excess[self.lambdas == 0.5][0])

    def __str__(self) -> str:
        return "\n".join(
            [
                f"TaylorBarrier over {self.lambdas.size} points: barrier {self.barrier:.4f}, at the middle "
                f"{self.midpoint_barrier:+.4f}",
                *(
                    f"  end {name}: loss {end.loss:.4f}, slope {end.slope:+.4g}, curvature {end.curvature:+.4g}"
                    for name, end in (("a", self.a), ("b", self.b))
                ),
            ]
        )


def taylor_barrier(
    model_a: nn.Module,
    model_b: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    match: Match = None,
    *,
    lambdas: int | Sequence[float] = 25,
    loss_fn: LossFn = nn.functional.cross_entropy,
    progress: Progress = False,
) -> TaylorBarrier:
    """The second-order estimate of the loss barrier between model a and the permuted model b.

    Ito et al. (ICLR 2025), section 3: the expansions of the loss at both ends along mu = pi(theta_b) - theta_a,
    weighted 1 - lam and lam, less the line between the ends. It equals the barrier where the loss is quadratic. Taken
    in the parameters; BatchNorm keeps the running statistics of each end.

    Args:
        model_a, model_b, batches, match, lambdas, loss_fn: as for `loss_barrier`; `loss_fn` must be twice
            differentiable by torch.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `TaylorBarrier`. Memory is that of one batch's backward pass, twice: no graph is kept between batches.

    Raises:
        TypeError, ValueError: as `loss_barrier`.
    """
    check_type("model_a", model_a, nn.Module, "a torch.nn.Module")
    batches = check_batches("batches", batches)
    check_loss_fn(loss_fn)
    points = lambdas_of(lambdas)
    permutations = permutations_of(match)
    state = tensors_of("model_a", model_a)
    end_b = tensors_of("model_b", model_b if permutations is None else permutations.apply(model_b))
    check_same_tensors("model_b", end_b, "model_a", state)
    end_b = {name: tensor.to(state[name]) for name, tensor in end_b.items()}
    direction = {name: end_b[name] - tensor.detach() for name, tensor in model_a.named_parameters()}
    names = first_names(model_a)
    ends = []
    with tracking(progress, "second-order estimate", 2) as advance:
        for tensors in (state, end_b):
            point = {name: tensors[name] for name in names}
            ends.append(_expansion(model_a, point, direction, batches, loss_fn))
            advance("")
    return TaylorBarrier(np.array(points), *ends)


def hessian_vector_product(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    loss_fn: LossFn = nn.functional.cross_entropy,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The loss of a batch, its gradient g and H v, forward over reverse, without building H.

    Args:
        model: whose forward is used, in the mode that it is in.
        tensors: the point: parameters and buffers by name; a tied one under the first of its names.
        direction: v, for the parameters to differentiate by.

    Returns:
        (loss, g by name, H v by name).
    """
    held = {name: tensor for name, tensor in tensors.items() if name not in direction}

    def loss_of(point: dict[str, Tensor]) -> Tensor:
        # functional_call takes everything given, so that nothing of the model's own counts.
        value: Tensor = loss_fn(functional_call(model, {**held, **point}, (inputs,)), targets)
        if value.numel() != 1:
            raise ValueError(f"loss_fn must return one number, the mean loss, got shape {tuple(value.shape)}")
        return value.reshape(())

    at = {name: tensors[name] for name in direction}
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        value, tangent = jvp(grad_and_value(loss_of), (at,), (dict(direction),))[:2]
    gradient, loss = value
    return loss, gradient, tangent[0]


def _expansion(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: LossFn,
) -> EndExpansion:
    device = device_of(model)
    sums, examples = [0.0, 0.0, 0.0], 0
    with modes_kept(model):
        model.eval()
        for batch in batches:
            inputs, targets = pair_of(batch, device)
            loss, gradient, product = hessian_vector_product(model, tensors, direction, inputs, targets, loss_fn)
            parts = [float(loss), _dot(direction, gradient), _dot(direction, product)]
            sums = [total + len(targets) * part for total, part in zip(sums, parts, strict=True)]
            examples += len(targets)
    if examples == 0:
        raise ValueError("batches must hold one example at least, got none")
    return EndExpansion(*(total / examples for total in sums))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float(torch.sum(tensor.double() * b[name].double())) for name, tensor in a.items())
