"""The barrier as the two ends' second-order expansions foretell it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import grad_and_value, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._batches import Batch, check_batches, differentiable
from .._calls import NO_GRADIENT, Calls, Forward, graph_of, with_gradient, with_weights
from .._derived import bake, derived_weights, effective_tensors
from .._models import Model, check_same_tensors, check_ties, copied, own_names, tensors_of, unwrapped
from .._modes import as_caller, neutral, uncompiled
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.results.matching import Match, choice_of
from .barrier import lambdas_of
from .evaluation import LossFn, check_loss_fn, first_names
from .twice import TwiceDifferentiable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EndExpansion", "HessianProducts", "TaylorBarrier", "hessian_vector_product", "taylor_barrier"]

Array = NDArray[np.float64]

# A loss, its gradient g and H v, by name.
Product = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]

# Of all threads one at a time: those of torch's switches that are turned here, and its level of forward-mode
# derivatives, are the process's.
_ALONE = threading.RLock()

# What forward-mode derivatives of a function that has none end in.
_FAILURES = (AttributeError, RuntimeError, TypeError, ValueError)


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
class TaylorBarrier(Result):
    """B2(lam) = lam (1 - lam) [(g_a - g_b)^T mu + 1/2 (lam mu^T H_a mu + (1 - lam) mu^T H_b mu)].

    Attributes:
        lambdas: float64 [points], rising; 0, 1/2 and 1 are among them.
        a, b: the expansions that it is made of.
    """

    lambdas: Array
    a: EndExpansion
    b: EndExpansion
    derived: ClassVar[tuple[str, ...]] = ("barrier", "midpoint_barrier")

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
        return max(0.0, float(self.excess.max()))

    @property
    def midpoint_barrier(self) -> float:
        """B2(1/2)."""
        return float(self.excess[self.lambdas == 0.5][0])

    def plot(self, axes: Axes | None = None, *, label: str | None = None, color: str | None = None) -> Axes:
        """Draw what a second-order picture foretells of the loss above the straight line between the ends.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure.
            label, color: of the curve.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        axes = axes_to_draw_on(axes)
        axes.plot(self.lambdas, self.excess, "--", color=color, label=label or f"second order, {self.barrier:.3g}")
        axes.set(xlim=(0, 1), xlabel=r"$\lambda$: from model a (0) to model b (1)", ylabel="loss above the line")
        axes.legend(frameon=False)
        return axes

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


@neutral
def taylor_barrier(
    model_a: nn.Module,
    model_b: Model,
    batches: Iterable[Any],
    match: Match = None,
    *,
    lambdas: int | Sequence[float] = 25,
    loss_fn: LossFn = nn.functional.cross_entropy,
    forward: Forward | None = None,
    progress: Progress = False,
) -> TaylorBarrier:
    """The second-order estimate of the loss barrier between model a and the permuted model b.

    Ito et al. (ICLR 2025), section 3: the expansions of the loss at both ends along mu = pi(theta_b) - theta_a,
    weighted 1 - lam and lam, less the line between the ends. It equals the barrier where the loss is quadratic. Taken
    in the parameters, effective weights in the place of what they are computed from; BatchNorm keeps the running
    statistics of each end.

    Args:
        model_a, model_b, batches, match, lambdas, loss_fn, forward: as for `loss_barrier`; `loss_fn` must be twice
            differentiable by torch (in reverse at least). Where it has kinks, second derivatives are those beside them.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `TaylorBarrier`. Memory is that of one batch's backward pass, twice: no graph is kept between batches.

    Raises:
        TypeError, ValueError: as `loss_barrier`; a model or a loss that has no second derivative, as one with reentrant
            activation checkpointing.
    """
    model_a = unwrapped("model_a", model_a)
    batches = check_batches("batches", batches)
    check_loss_fn(loss_fn)
    points = lambdas_of(lambdas)
    choice = choice_of("match", match)
    state = tensors_of("model_a", model_a)
    end_b = tensors_of("model_b", model_b if choice is None else choice.apply(model_b))
    end_b = check_same_tensors("model_b", end_b, "model_a", state)
    derived = derived_weights(model_a, state)
    # In a copy views of one tensor are parameters of their own.
    model_a = copied(model_a).eval()
    check_ties(model_a, end_b)
    if derived:
        # The line runs between the weights that the function sees.
        state, end_b = (effective_tensors(tensors, derived) for tensors in (state, end_b))
        bake(model_a)
    end_b = {name: tensor.to(state[name]) for name, tensor in end_b.items()}
    names = first_names(model_a)
    own = own_names(model_a)
    parameters = dict(model_a.named_parameters())
    direction = {own.get(name, name): end_b[name] - state[name] for name in names if own.get(name, name) in parameters}
    products = HessianProducts(model_a, Calls(model_a, forward, loss_fn))
    ends = []
    with tracking(progress, "second-order estimate", 2) as advance:
        for tensors in (state, end_b):
            point = {own.get(name, name): tensors[name] for name in names}
            ends.append(_expansion(products, point, direction, batches))
            advance("")
    return TaylorBarrier(np.array(points), *ends)


@neutral
def hessian_vector_product(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    inputs: Any,
    targets: Any,
    loss_fn: LossFn = nn.functional.cross_entropy,
) -> Product:
    """The loss of a batch, its gradient g and H v, without building H.

    Args:
        model: whose forward is used, in eval mode, on a copy.
        tensors: the point: parameters and buffers by name; a tied one under the first of its names.
        direction: v, for the parameters to differentiate by.

    Returns:
        (loss, g by name, H v by name).
    """
    calls = Calls(model, None, loss_fn)
    return HessianProducts(model, calls)(tensors, direction, calls.read_one("batches", 0, (inputs, targets)))


class HessianProducts:
    """Products with the Hessian of one model's loss: forward over reverse while that goes, then reverse over reverse.

    Args:
        model: copied.
        calls: how it is called.
    """

    def __init__(self, model: nn.Module, calls: Calls) -> None:
        self.calls, self.model = calls, model
        self.module = _for_derivatives(model)
        self.is_forward, self.is_checked = True, False

    def __call__(self, tensors: Mapping[str, Tensor], direction: Mapping[str, Tensor], batch: Batch) -> Product:
        held = {name: differentiable(tensor) for name, tensor in tensors.items() if name not in direction}
        at = {name: differentiable(tensors[name].detach()) for name in direction}
        # Fused attention has no second derivative, nor have recurrent layers in cuDNN, nor what is compiled.
        with _ALONE, uncompiled(), sdpa_kernel(SDPBackend.MATH), _without_cudnn(self.module), torch.enable_grad():
            if self.is_forward:
                try:
                    return self._forward_over_reverse(held, at, direction, batch)
                except _FAILURES:
                    # A fault of the caller's own code shows again below. What the module may have kept of a call that
                    # was broken off is of no use.
                    self.module, self.is_forward = _for_derivatives(self.model), False
            return self._reverse_over_reverse(held, at, direction, batch)

    def _loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.calls.loss(self.calls.outputs(module, batch), batch)

    def _forward_over_reverse(
        self, held: dict[str, Tensor], at: dict[str, Tensor], direction: Mapping[str, Tensor], batch: Batch
    ) -> Product:
        def loss_of(point: dict[str, Tensor]) -> Tensor:
            return with_weights(self.module, {**held, **point}, lambda module: self._loss(module, batch))

        value, tangent = jvp(grad_and_value(loss_of), (at,), (dict(direction),))[:2]
        gradient, loss = value
        return loss, gradient, tangent[0]

    def _reverse_over_reverse(
        self, held: dict[str, Tensor], at: dict[str, Tensor], direction: Mapping[str, Tensor], batch: Batch
    ) -> Product:
        leaves = {name: tensor.requires_grad_() for name, tensor in at.items()}
        names, points = list(leaves), list(leaves.values())
        if not self.is_checked:
            # Reentrant checkpointing shows in the graph of inputs that have a gradient alone.
            batch = with_gradient(batch)

        def derivatives(module: nn.Module) -> Product:
            """The loss, its gradient, and the Hessian times `direction`, by two reverse passes."""
            with TwiceDifferentiable():
                loss = self._loss(module, batch)
            if not loss.requires_grad:
                raise ValueError(NO_GRADIENT)
            self._check(loss)
            with as_caller(), _second_derivatives():
                found = torch.autograd.grad(loss, points, create_graph=True, allow_unused=True)
                slopes = [torch.zeros_like(p) if g is None else g for p, g in zip(points, found, strict=True)]
                along = torch.stack(
                    [(slope * direction[name]).sum().to(loss.dtype) for name, slope in zip(names, slopes, strict=True)]
                ).sum()
                curved: tuple[Tensor | None, ...] = (None,) * len(points)
                # What can be differentiated once ends the graph with a node that says so, beyond which nothing counts.
                if any(type(node).__name__ == "Error" for node in graph_of(along)):
                    raise ValueError(
                        "model_a and loss_fn must have second derivatives, but a function in them is marked with "
                        "once_differentiable"
                    )
                # A loss that is linear in the weights has no second derivative to ask for.
                if along.requires_grad:
                    curved = torch.autograd.grad(along, points, allow_unused=True)
            products = [torch.zeros_like(p) if c is None else c for p, c in zip(points, curved, strict=True)]
            return (
                loss.detach(),
                {name: slope.detach() for name, slope in zip(names, slopes, strict=True)},
                dict(zip(names, products, strict=True)),
            )

        return with_weights(self.module, {**held, **leaves}, derivatives)

    def _check(self, loss: Tensor) -> None:
        """ValueError for a forward pass whose second derivative would be wrong."""
        if not self.is_checked and any(type(node).__name__ == "CheckpointFunctionBackward" for node in graph_of(loss)):
            raise ValueError(
                "model_a must have second derivatives, and reentrant activation checkpointing has none: turn it off, "
                "or take use_reentrant=False"
            )
        self.is_checked = True


def _for_derivatives(model: nn.Module) -> nn.Module:
    """A copy of a module, in eval mode."""
    module = copied(model)
    for part in module.modules():
        part.training = False
    return module


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """ValueError where torch has no derivative of a derivative."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"model_a and loss_fn must have second derivatives, but torch says: {error}") from error


@contextmanager
def _without_cudnn(module: nn.Module) -> Iterator[None]:
    """No cuDNN where the module has recurrent layers, which differentiate there but once, and in training mode."""
    was = torch._C._get_cudnn_enabled()
    try:
        if was and any(isinstance(part, nn.RNNBase) for part in module.modules()):
            torch._C._set_cudnn_enabled(False)
        yield
    finally:
        torch._C._set_cudnn_enabled(was)


def _expansion(
    products: HessianProducts, tensors: Mapping[str, Tensor], direction: Mapping[str, Tensor], batches: Iterable[Any]
) -> EndExpansion:
    sums, examples = [0.0, 0.0, 0.0], 0
    for batch in products.calls.read("batches", batches):
        loss, gradient, product = products(tensors, direction, batch)
        parts = [loss.item(), _dot(direction, gradient), _dot(direction, product)]
        sums = [total + batch.examples * part for total, part in zip(sums, parts, strict=True)]
        examples += batch.examples
    if examples == 0:
        raise ValueError("batches must hold one example at least, got none")
    return EndExpansion(*(total / examples for total in sums))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(torch.sum(tensor.double() * b[name].double()).item() for name, tensor in a.items())
