"""Losses of torch that have no second derivative there, written in operations that have one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["TwiceDifferentiable", "ctc_loss", "multi_margin_loss", "multilabel_margin_loss"]

# The logarithm of a probability of none, with a gradient of 0.
_NEVER = -1e30


class TwiceDifferentiable(TorchFunctionMode):
    """While it is entered, calls of such losses go to those of this file, with the same values and gradients."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _PLAIN.get(func, func)(*args, **(kwargs or {}))


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """As `torch.nn.functional.multi_margin_loss`: input [n, classes] or [classes], target [n] or one number."""
    scores, right = (input, target) if input.ndim == 2 else (input.unsqueeze(0), target.reshape(1))
    of_right = scores.gather(1, right.unsqueeze(1))
    # [n, classes]
    terms = (margin - of_right + scores).clamp_min(0) ** p
    if weight is not None:
        terms = terms * weight[right].unsqueeze(1)
    others = torch.ones_like(terms).scatter(1, right.unsqueeze(1), 0)
    return _reduced((terms * others).sum(dim=1) / scores.shape[1], input.ndim, size_average, reduce, reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """As `torch.nn.functional.multilabel_margin_loss`: both [n, classes] or [classes]; labels end at the first -1."""
    scores, labels = (input, target) if input.ndim == 2 else (input.unsqueeze(0), target.unsqueeze(0))
    counts = (labels < 0).cumsum(dim=1) == 0
    places = torch.where(counts, labels, 0)
    is_right = torch.zeros_like(scores).scatter_add(1, places, counts.to(scores.dtype)) > 0
    of_right = scores.gather(1, places)
    # [n, labels, classes]
    terms = (1 - of_right.unsqueeze(2) + scores.unsqueeze(1)).clamp_min(0)
    terms = terms * (counts.unsqueeze(2) & ~is_right.unsqueeze(1))
    return _reduced(terms.sum(dim=(1, 2)) / scores.shape[1], input.ndim, size_average, reduce, reduction)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """As `torch.nn.functional.ctc_loss`: the forward recursion of Graves et al. (ICML 2006), section 4.1.

    The gradient by `log_probs` is the plain one; torch's is that of logits behind a log_softmax, so that the two are
    equal from the logits on.

    Args:
        log_probs: [steps, n, classes] or [steps, classes].
        targets: [n, labels], or all labels end to end.
    """
    is_single = log_probs.ndim == 2
    logs = log_probs.unsqueeze(1) if is_single else log_probs
    steps, count, _ = logs.shape
    device = logs.device
    of_input = torch.as_tensor(input_lengths, device=device).reshape(-1)
    of_target = torch.as_tensor(target_lengths, device=device).reshape(-1)
    most = int(of_target.max()) if of_target.numel() else 0
    within = torch.arange(most, device=device) < of_target.unsqueeze(1)
    labels = torch.full((count, most), blank, device=device)
    given = targets.to(device).long()
    if targets.ndim == 1:
        labels[within] = given[: int(of_target.sum())]
    else:
        labels = torch.where(within, given[:, :most], labels)
    # Blanks around every label: [n, 2 labels + 1]
    path = torch.full((count, 2 * most + 1), blank, device=device)
    path[:, 1::2] = labels
    may_skip = torch.zeros_like(path, dtype=torch.bool)
    may_skip[:, 2:] = (path[:, 2:] != blank) & (path[:, 2:] != path[:, :-2])
    emitted = logs.gather(2, path.expand(steps, -1, -1)).clamp_min(_NEVER)
    first = torch.arange(path.shape[1], device=device) < 2
    alpha = torch.where(first, emitted[0], _NEVER)
    for step in range(1, steps):
        ways = torch.stack([alpha, _behind(alpha, 1), torch.where(may_skip, _behind(alpha, 2), _NEVER)])
        moved = (ways.logsumexp(dim=0) + emitted[step]).clamp_min(_NEVER)
        alpha = torch.where((step < of_input).unsqueeze(1), moved, alpha)
    last = alpha.gather(1, 2 * of_target.unsqueeze(1)).squeeze(1)
    before = alpha.gather(1, (2 * of_target - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
    losses = -torch.where(of_target > 0, torch.logaddexp(last, before), last)
    losses = torch.where(losses < -_NEVER / 2, losses, 0.0 if zero_infinity else float("inf"))
    if reduction == "mean":
        return (losses / of_target.clamp_min(1)).mean()
    return losses.sum() if reduction == "sum" else losses[0] if is_single else losses


def _behind(alpha: Tensor, places: int) -> Tensor:
    """What came so many places earlier: [n, places]."""
    return nn.functional.pad(alpha, (places, 0), value=_NEVER)[:, : alpha.shape[1]]


def _reduced(losses: Tensor, ndim: int, size_average: bool | None, reduce: bool | None, reduction: str) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction == "none":
        return losses if ndim == 2 else losses[0]
    return losses.mean() if reduction == "mean" else losses.sum()


_PLAIN: dict[Any, Callable[..., Tensor]] = {
    nn.functional.ctc_loss: ctc_loss,
    nn.functional.multi_margin_loss: multi_margin_loss,
    nn.functional.multilabel_margin_loss: multilabel_margin_loss,
}
