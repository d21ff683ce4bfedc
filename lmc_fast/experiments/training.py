"""Training one model from one seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._checks import check_finite, check_int
from .._norms import tracked
from .._progress import Progress, tracking
from .datasets import Dataset
from .processes import one_thread

__all__ = ["train"]

# Models of so many numbers are trained on one thread.
SMALL = 1 << 20


def train(
    build: Callable[[], nn.Module],
    data: Dataset,
    *,
    seed: int,
    epochs: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    sam_rho: float = 0.0,
    progress: Progress = False,
) -> nn.Module:
    """Train a model with Adam and a cosine schedule; everything random comes from `seed`.

    Models of up to `SMALL` parameters are trained on one thread, whatever torch is set to.

    Args:
        build: makes the untrained model.
        data: its training part is used.
        seed: of the weights and of the order of examples; the global generator is left as it was.
        epochs: passes over the data.
        learning_rate: at the start; falls to zero along a half cosine.
        weight_decay: decoupled (AdamW).
        batch_size: examples a step; what is left over at the end of a pass is dropped.
        loss_fn: mean loss of a batch from (outputs, targets).
        sam_rho: above 0 every step takes the gradient where the loss is largest, to first order, at this distance from
            the weights (Foret et al., "Sharpness-Aware Minimization", ICLR 2021): flatter minima, which merge better,
            at twice the time. BatchNorm statistics are those of the weights themselves.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        The trained model, in eval mode.
    """
    check_int("epochs", epochs, 1)
    if not check_finite("sam_rho", sam_rho) >= 0:
        raise ValueError(f"sam_rho must be 0 or more, got {sam_rho}")
    order = torch.Generator().manual_seed(seed)
    steps = len(data.train_inputs) // batch_size
    with torch.random.fork_rng(devices=[]), tracking(progress, "training", epochs) as advance:
        # Weights and dropout draw from here; torch.manual_seed would reseed the caller's GPUs as well.
        torch.default_generator.manual_seed(seed)
        model = build().train()
        small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
        with one_thread() if small else nullcontext():
            optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
            for _ in range(epochs):
                permutation = torch.randperm(len(data.train_inputs), generator=order)
                for step in range(steps):
                    rows = permutation[step * batch_size : (step + 1) * batch_size]
                    loss = loss_fn(model(data.train_inputs[rows]), data.train_targets[rows])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    if sam_rho > 0:
                        inputs, targets = data.train_inputs[rows], data.train_targets[rows]
                        _sharpen(model, lambda: loss_fn(model(inputs), targets), sam_rho)  # noqa: B023
                    optimizer.step()
                    schedule.step()
                advance(f"loss {loss.item():.4f}", loss=loss.item())
    return model.eval()


def _sharpen(model: nn.Module, loss_of: Callable[[], Tensor], rho: float) -> None:
    """Put the gradient at theta + rho g / ||g|| in the place of the gradient g at theta; theta stays."""
    moved = [p for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in moved]))  # type: ignore[union-attr]
    kept = [p.detach().clone() for p in moved]
    momenta = {layer: layer.momentum for _, layer in tracked(model)}
    with torch.no_grad():
        for p in moved:
            p.add_(p.grad * (rho / (norm + 1e-12)))
    model.zero_grad()
    for layer in momenta:
        layer.momentum = 0.0
    loss_of().backward()  # type: ignore[no-untyped-call]
    for layer, momentum in momenta.items():
        layer.momentum = momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked -= 1
    with torch.no_grad():
        for p, before in zip(moved, kept, strict=True):
            p.copy_(before)
