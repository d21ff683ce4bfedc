"""Calls of the caller's own code: a model's forward on a batch, and a loss of what it gives."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ._batches import ABSENT, Batch, Reader, label_of
from ._checks import describe, fail_type
from ._models import device_of
from ._modes import as_caller
from ._nested import mapped

__all__ = [
    "NO_GRADIENT",
    "Calls",
    "Forward",
    "LossFn",
    "check_forward",
    "check_loss_fn",
    "graph_of",
    "in_eval",
    "logits_of",
    "plain_targets",
    "with_gradient",
    "with_weights",
]

# Mean loss of a batch from (outputs, targets); from (outputs, batch) beside a `Forward`.
LossFn = Callable[[Any, Any], Tensor]
# Outputs from (model, batch).
Forward = Callable[[Any, Any], Any]
T = TypeVar("T")

NO_GRADIENT = (
    "loss_fn must give a loss with a gradient, got one without: something on the way from the weights is detached, or "
    "computed without gradients"
)

# Losses of torch that tell classes by their numbers.
_OF_CLASSES = (nn.functional.cross_entropy, nn.functional.nll_loss)


class Calls:
    """How one model is called on batches, by the rule of `_batches`.

    Args:
        model: whose forward is meant; its signature and device are read.
        forward: of the caller's, (model, batch) -> outputs; None: the rule decides what the model is given.
        loss_fn: of the caller's; None where no loss is to be computed.
        device: where batches go; None: where the model is.

    Raises:
        TypeError: `forward` or `loss_fn` that cannot be called.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None = None,
        loss_fn: LossFn | None = None,
        device: torch.device | None = None,
    ) -> None:
        check_forward(forward)
        if loss_fn is not None:
            check_loss_fn(loss_fn)
        self.forward, self.loss_fn = forward, loss_fn
        self.reader = Reader(
            model,
            wants_targets=loss_fn is not None,
            is_whole=forward is not None,
            device=device_of(model) if device is None else device,
            dtype=next((p.dtype for p in model.parameters() if p.is_floating_point()), None),
        )

    def read(self, argument: str, batches: Iterable[Any]) -> Iterator[Batch]:
        """The batches, on the device. TypeError, naming it, for one that the rule does not cover."""
        return self.reader.read(argument, batches)

    def read_one(self, argument: str, index: int, batch: Any) -> Batch:
        """One of them, which comes at this place."""
        return self.reader.read_one(argument, index, batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """What the model gives, in the mode that it is in."""
        with as_caller():
            if self.forward is None:
                return self._plain_outputs(model, batch)
            # A copy of its containers: one that takes entries out leaves them to the next call.
            return self.forward(model, mapped(batch.whole, lambda leaf: leaf))

    def _plain_outputs(self, model: nn.Module, batch: Batch) -> Any:
        try:
            return model(*batch.args, **batch.kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            # Of another dtype or shape than the model takes, or of numbers beyond an embedding, as torch says it. What
            # is more special stays what it is, and so does what the model's own code says.
            if type(error) is not RuntimeError and not _is_of_torch_layers(error):
                raise
            given = ", ".join(describe(value) for value in (*batch.args, *batch.kwargs.values()))
            raise ValueError(f"{batch.where} must fit the model, which was given {given}, and says: {error}") from error

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean loss of the batch: a tensor of no dimensions.

        Raises:
            TypeError, ValueError: what `loss_fn` gives is not one number, or a loss of torch does not take these
                outputs and targets; errors of a function of the caller's are its own.
        """
        assert self.loss_fn is not None
        plain = _of_torch(self.loss_fn)
        value = self._own_loss(outputs, batch) if plain is None else self._torch_loss(plain, outputs, batch)
        if not isinstance(value, Tensor):
            raise TypeError(f"loss_fn must return one number, the mean loss, as a tensor, got {describe(value)}")
        if value.numel() != 1:
            raise ValueError(f"loss_fn must return one number, the mean loss, got shape {tuple(value.shape)}")
        if value.is_complex():
            raise ValueError(f"loss_fn must return one real number, the mean loss, got one of {value.dtype}")
        return value.reshape(())

    def _own_loss(self, outputs: Any, batch: Batch) -> Any:
        assert self.loss_fn is not None
        try:
            with as_caller():
                return self.loss_fn(outputs, batch.targets if self.forward is None else batch.whole)
        except (AttributeError, TypeError) as error:
            if not batch.is_rest:
                raise
            # The caller has not put these together, and may not know of it.
            raise TypeError(
                f"loss_fn must take the targets of {batch.where}, which are what forward does not take: "
                f"{_listed(batch.targets)}; it failed with {type(error).__name__}: {error}"
            ) from error

    def _torch_loss(self, plain: object, outputs: Any, batch: Batch) -> Any:
        assert self.loss_fn is not None
        own = _named(outputs, "loss")
        if plain is nn.functional.cross_entropy and not isinstance(outputs, Tensor) and isinstance(own, Tensor):
            return own
        logits, targets = logits_of(outputs), plain_targets(batch)
        if logits is None:
            raise TypeError(
                f"loss_fn must fit the model's outputs, which are {describe(outputs)} in {batch.where}: give one that "
                "takes them, or forward="
            )
        if not isinstance(targets, Tensor):
            raise TypeError(
                f"loss_fn must fit the targets: losses of torch take (inputs, targets) pairs of tensors, got "
                f"{describe(targets)} as the targets of {batch.where}; give a function that takes them"
            )
        if plain in _OF_CLASSES and not targets.is_floating_point() and targets.dtype != torch.int64:
            targets = targets.long()
        try:
            with as_caller():
                return self.loss_fn(logits, targets)
        except (NotImplementedError, torch.OutOfMemoryError):
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"loss_fn must fit outputs and targets, which are {describe(logits)} and {describe(targets)} in "
                f"{batch.where}: {error}"
            ) from error

    def right(self, outputs: Any, batch: Batch) -> int | None:
        """How many answers are right; None unless outputs are [examples, classes] and targets integers [examples]."""
        scores, targets = logits_of(outputs), batch.targets
        if (
            scores is None
            or not isinstance(targets, Tensor)
            or scores.ndim != 2
            or scores.shape[1] < 2
            or targets.ndim != 1
            or targets.shape[0] != scores.shape[0]
            or targets.is_floating_point()
        ):
            return None
        return int((scores.argmax(dim=1) == targets).sum())


def check_forward(forward: object) -> None:
    """Raise TypeError unless it is None or can be called as `forward=` is."""
    if forward is not None and (not callable(forward) or isinstance(forward, nn.Module) or _is_module_class(forward)):
        fail_type("forward", "a function (model, batch) -> outputs or None", forward)


def check_loss_fn(loss_fn: object) -> None:
    """Raise TypeError unless `loss_fn` can be called."""
    if _is_module_class(loss_fn):
        raise TypeError(
            f"loss_fn must be a function of (outputs, targets), got a class: {loss_fn.__name__}() makes one"
        )
    if not callable(loss_fn):
        fail_type("loss_fn", "a function of (outputs, targets)", loss_fn)


def _is_module_class(value: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)


def with_weights(module: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[nn.Module], T]) -> T:
    """``function(module)`` while the module holds these tensors under their names, tied ones under all of theirs.

    What is to be differentiated is differentiated inside: activation checkpointing runs parts of the forward again
    in the backward pass, and these are to see the same weights. The module must be no other thread's.
    """
    if not tensors:
        return function(module)
    return functional_call(  # type: ignore[no-any-return]
        _Holder(module), {f"module.{name}": tensor for name, tensor in tensors.items()}, (function,)
    )


class _Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[nn.Module], T]) -> T:
        return function(self.module)


def with_gradient(batch: Batch) -> Batch:
    """The same batch with floating inputs that have a gradient, which nobody asks for."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            # No leaf of the graph: these cannot be written to in place.
            return value.detach().requires_grad_().clone()
        return value

    args, kwargs, whole = (mapped(part, leaf) for part in (batch.args, batch.kwargs, batch.whole))
    return replace(batch, args=args, kwargs=kwargs, whole=whole)


def graph_of(loss: Tensor) -> list[Any]:
    """All nodes of the graph behind a loss."""
    found: dict[Any, None] = {}
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [after for after, _ in node.next_functions]
    return list(found)


# For the id of a part that is running for us: how many calls it does so in, and the mode it was in before.
_RUNNING: dict[int, tuple[int, bool]] = {}
_LOCK = threading.Lock()


@contextmanager
def in_eval(*modules: nn.Module) -> Iterator[None]:
    """Eval mode for every part of the modules, until the last of the threads that are in here with it has left.

    Nothing but the mode is touched: what a model does beyond in its own `train` and `eval` would not be undone.
    """
    parts = [part for module in modules for part in module.modules()]
    with _LOCK:
        for part in parts:
            calls, mode = _RUNNING.get(id(part), (0, part.training))
            _RUNNING[id(part)] = (calls + 1, mode)
            if part.training:
                part.training = False
    try:
        yield
    finally:
        with _LOCK:
            for part in parts:
                calls, mode = _RUNNING.pop(id(part))
                if calls > 1:
                    _RUNNING[id(part)] = (calls - 1, mode)
                elif part.training != mode:
                    part.training = mode


def _is_of_torch_layers(error: BaseException) -> bool:
    """Whether a plain error comes out of torch's own layers."""
    if type(error) not in (IndexError, TypeError, ValueError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")).startswith("torch.nn.")


def _of_torch(loss_fn: object) -> object | None:
    """The function or module of torch that a loss is; None for the caller's own."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    if isinstance(loss_fn, nn.CrossEntropyLoss):
        return nn.functional.cross_entropy if type(loss_fn) is nn.CrossEntropyLoss else None
    is_module = type(loss_fn).__module__ == "torch.nn.modules.loss"
    is_function = getattr(loss_fn, "__module__", None) in ("torch.nn.functional", "torch._C._nn")
    return loss_fn if is_module or is_function else None


def _listed(targets: Any) -> str:
    if isinstance(targets, Mapping):
        return f"a dict of {', '.join(map(repr, targets))}"
    return f"a tuple of {len(targets)}"


def _named(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def logits_of(outputs: Any) -> Tensor | None:
    """The tensor that a model gives, by itself or beside other things."""
    logits = outputs if isinstance(outputs, Tensor) else _named(outputs, "logits")
    return logits if isinstance(logits, Tensor) else None


def plain_targets(batch: Batch) -> Any:
    """Targets as losses of torch take them."""
    targets = batch.targets
    label = label_of(targets) if isinstance(targets, Mapping) else ABSENT
    return targets if label is ABSENT else label
