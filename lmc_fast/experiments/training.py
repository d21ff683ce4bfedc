"""Training one model from one seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._checks import check_int
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
        progress: True for a bar, or a function (description, done, total).

    Returns:
        The trained model, in eval mode.
    """
    check_int("epochs", epochs, 1)
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
                    optimizer.step()
                    schedule.step()
                advance(f"loss {loss.item():.4f}", loss=loss.item())
    return model.eval()
