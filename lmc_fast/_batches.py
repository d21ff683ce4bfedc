"""Batches: one rule for every function that takes data, and nothing dropped without a word.

A batch is read by what the model's forward takes (its signature):

- A tensor, a numpy array, or an object with `.to(device)`: inputs alone.
- A tuple or list of two: (inputs, targets). Where no loss is needed and forward requires two arguments, both are
  inputs. Inputs that are a tuple or list are spread over forward's arguments, a mapping over its keywords, as in
  ((x, mask), y); what forward cannot take so is handed to it as one argument.
- A longer one: where forward requires k arguments and takes no more, the first k are inputs and the rest is targets
  (one: itself; several: a tuple). Where it could take more, this is ambiguous, and refused: pass ((x, mask), y).
- A mapping, a dataclass, or a named tuple whose fields forward knows: entries that forward takes by name are passed
  so, what is left is the targets (one: itself; several: a dict). Where nothing is left, an entry named as in `LABELS`
  is the targets as well. Where forward takes none of them by name, the only one that is not named as in `LABELS` is the
  inputs; of several this is refused.
- With `forward=`, a function (model, batch) -> outputs, a batch may be anything; `loss_fn` gets (outputs, batch) then.
  Losses of torch get targets: the second of a pair, or the entry named as in `LABELS`.

Everything in a batch is moved to the model's device, inside tuples, lists, mappings, dataclasses and objects with
`.to(device)`; the caller's containers stay as they are. Numpy arrays become tensors, floating ones in the model's
dtype. Other things (strings, lists of numbers, None) stay.
A batch counts by its examples: the length of the first tensor in the targets, else in the inputs, else 1.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ._checks import describe, fail_type
from ._nested import entries_of, is_sequence, leaves, mapped

__all__ = ["ABSENT", "LABELS", "Batch", "Reader", "check_batches", "count_of", "differentiable", "label_of"]

LABELS = ("labels", "label", "targets", "target", "y")


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


# The targets of a batch that has none.
ABSENT = _Absent()


@dataclass(frozen=True)
class Batch:
    """A batch on the model's device.

    Attributes:
        where: what to call it in messages, as batches[3].
        args, kwargs: what the model's forward is given.
        targets: `ABSENT` where it has none.
        whole: all of it, in the caller's form.
        examples: how many it counts for.
        is_rest: whether the targets are several things that were left over, put together here.
    """

    where: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    whole: Any
    examples: int
    is_rest: bool = False


def check_batches(argument: str, batches: object, *, again: bool = True) -> Iterable[Any]:
    """Return `batches` if it can be run through; TypeError for what is a batch, a mapping or a model itself.

    Args:
        again: whether it must be possible more than once, which rules out iterators.
    """
    takes = "batches that can be gone through" + (" again and again" if again else "") + " (a list, a DataLoader)"
    no_batches = (Tensor, np.ndarray, str, bytes, Mapping, nn.Module, PackedSequence)
    if isinstance(batches, no_batches) or not isinstance(batches, Iterable):
        fail_type(argument, takes, batches)
    if again and isinstance(batches, Iterator):
        fail_type(argument, takes, batches)
    return batches


def count_of(batches: object) -> int:
    """How many batches there are; 0 where that is not known."""
    if not isinstance(batches, Sized):
        return 0
    try:
        return len(batches)
    except TypeError:
        # A DataLoader of a dataset that has no length.
        return 0


class Reader:
    """Reads batches for one model.

    Args:
        model: whose forward is called; its signature is read, nothing else.
        wants_targets: whether a loss is to be computed.
        is_whole: whether a function of the caller's is given the batch as it is.
        device: where batches are moved to.
        dtype: of floating numpy arrays; None: as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        wants_targets: bool,
        is_whole: bool,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.taken = _Taken.by(model)
        self.wants_targets, self.is_whole, self.device, self.dtype = wants_targets, is_whole, device, dtype

    def read(self, argument: str, batches: Iterable[Any]) -> Iterator[Batch]:
        """The batches, one after another; empty ones are passed over.

        Raises:
            TypeError: one that the rule does not cover; the message names it.
        """
        for index, batch in enumerate(batches):
            read = self.read_one(argument, index, batch)
            # One without examples has no mean loss, and counts for nothing.
            if read.examples:
                yield read

    def read_one(self, argument: str, index: int, given: Any) -> Batch:
        """One of the batches, which comes at this place."""
        where = f"{argument}[{index}]"
        try:
            whole = mapped(given, self._moved)
            if self.is_whole:
                return Batch(where, (), {}, _targets_in(whole), whole, _examples(whole))
            args, kwargs, rest = self._parts(whole)
            targets = ABSENT if not rest else _only(rest) if len(rest) == 1 else rest
            if not any(_is_data(leaf) for leaf in leaves((args, kwargs))):
                raise _NoBatch(f"is {describe(whole)} and holds no tensor")
            if self.wants_targets and targets is ABSENT:
                raise _NoBatch(f"is {describe(whole)} and holds no targets")
        except _NoBatch as why:
            self._refuse(argument, where, str(why))
        return Batch(where, args, kwargs, targets, whole, _examples(targets, args, kwargs), len(rest) > 1)

    def _refuse(self, argument: str, where: str, why: str) -> NoReturn:
        takes = "(inputs, targets) pairs" if self.wants_targets else "inputs or (inputs, targets) pairs"
        raise TypeError(
            f"{argument} must be {takes}, or mappings by the names of forward's arguments, but {where} {why}; "
            f"forward takes {self.taken}. Several inputs go as ((x, mask), y); anything else goes with forward="
        )

    def _parts(self, batch: Any) -> _Parts:
        """Positional arguments, keyword arguments, and what is left for targets."""
        entries = entries_of(batch)
        # Of the class: dicts that give their entries as attributes may raise KeyError where they have none.
        fields = getattr(type(batch), "_fields", None)
        if entries is None and fields and not isinstance(batch, PackedSequence) and self.taken.knows(fields):
            entries = dict(zip(fields, batch, strict=True))
        if entries is not None:
            return self._of_entries(entries)
        if is_sequence(batch):
            return self._of_items(tuple(batch))
        return (*self._inputs(batch), ())

    def _of_entries(self, entries: Mapping[Any, Any]) -> _Parts:
        kwargs = {key: value for key, value in entries.items() if self.taken.takes(key)}
        rest = {key: value for key, value in entries.items() if key not in kwargs}
        if not kwargs:
            inputs = [value for key, value in entries.items() if key not in LABELS]
            if len(inputs) != 1:
                raise _NoBatch(f"has the entries {_list(entries)}, none of which is named as an argument of forward")
            return *self._inputs(inputs[0]), {key: value for key, value in entries.items() if key in LABELS}
        self._check_complete(kwargs)
        name = next((name for name in LABELS if name in kwargs), None)
        if name is not None and label_of(rest) is ABSENT:
            rest[name] = kwargs[name]
        return (), kwargs, rest

    def _of_items(self, items: tuple[Any, ...]) -> _Parts:
        required = self.taken.required
        if not items:
            raise _NoBatch("is empty")
        if len(items) <= 2 and (required <= 1 or self._is_spread(items[0])):
            args, kwargs = self._inputs(items[0])
            rest = items[1:]
        else:
            if len(items) < required:
                raise _NoBatch(f"has {len(items)} items, and forward requires {required} arguments")
            if len(items) > required and self.taken.most > required:
                raise _NoBatch(f"has {len(items)} items, and it is not clear how many of them are inputs")
            args, kwargs = items[:required], {}
            self._check_complete({}, given=required)
            rest = items[required:]
        return args, kwargs, rest

    def _is_spread(self, inputs: Any) -> bool:
        entries = entries_of(inputs)
        if entries is not None:
            return self.taken.knows(entries)
        return _are_inputs(inputs) and self.taken.required <= len(inputs) <= self.taken.most

    def _inputs(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What forward is given of a batch's inputs."""
        entries = entries_of(inputs)
        if entries is not None and self.taken.knows(entries):
            unknown = [key for key in entries if not self.taken.takes(key)]
            if unknown:
                raise _NoBatch(f"has inputs with the entries {_list(unknown)}, which forward does not take by name")
            self._check_complete(entries)
            return (), dict(entries)
        if entries is None and self._is_spread(inputs):
            self._check_complete({}, given=len(inputs))
            return tuple(inputs), {}
        if self.taken.required > 1 or (_are_inputs(inputs) and self.taken.most != 1):
            held = f"{len(inputs)} inputs" if _are_inputs(inputs) else "one input"
            raise _NoBatch(f"holds {held}, which do not fit the arguments of forward")
        self._check_complete({}, given=1)
        return (inputs,), {}

    def _check_complete(self, kwargs: Mapping[str, Any], given: int = 0) -> None:
        missing = [name for name in self.taken.needed[given:] if name not in kwargs]
        missing += [name for name in self.taken.needed_names if name not in kwargs]
        if missing:
            raise _NoBatch(f"lacks {_list(missing)}, which forward requires")
        if given > self.taken.most:
            raise _NoBatch(f"holds {given} inputs, and forward takes {self.taken.most}")

    def _moved(self, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
            # A copy: torch takes no negative strides and no foreign byte order, and warns of what cannot be written to.
            leaf = torch.from_numpy(np.array(leaf, dtype=leaf.dtype.newbyteorder("="), order="C"))
            if leaf.is_floating_point() and self.dtype is not None:
                leaf = leaf.to(self.dtype)
        if isinstance(leaf, Tensor) and leaf.is_meta and self.device.type != "meta":
            raise _NoBatch("holds a tensor on the meta device, which has no numbers")
        if isinstance(leaf, Tensor):
            return differentiable(leaf.to(self.device))
        if isinstance(leaf, PackedSequence):
            return leaf.to(device=self.device)  # type: ignore[call-arg]
        if _is_movable(leaf):
            # Some move themselves in place.
            return copy.copy(leaf).to(self.device)
        return leaf


# Positional arguments, keyword arguments, and what is left for targets.
_Parts = tuple[tuple[Any, ...], dict[str, Any], "tuple[Any, ...] | dict[Any, Any]"]


class _NoBatch(Exception):
    """What is wrong with a batch, to stand behind its name."""


@dataclass(frozen=True)
class _Taken:
    """What a forward takes.

    Attributes:
        needed: positional arguments without a default.
        most: how many positional arguments it takes.
        names: what it takes by name; `any_name`: everything.
        needed_names: what it requires, by name alone.
        text: its signature.
    """

    needed: tuple[str, ...]
    most: float
    names: frozenset[str]
    any_name: bool
    needed_names: tuple[str, ...]
    text: str

    @classmethod
    def by(cls, model: nn.Module) -> _Taken:
        """What the `forward` of `model` takes; one whose signature cannot be read takes anything.

        A module of this package that hands everything on to another has that as `reads_as`.
        """
        inner = getattr(model, "reads_as", None)
        if isinstance(inner, nn.Module):
            return cls.by(inner)
        try:
            signature = inspect.signature(model.forward)
        except (TypeError, ValueError):
            return cls((), float("inf"), frozenset(), True, (), "(*args, **kwargs)")
        parameters = signature.parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            needed=tuple(p.name for p in positional if p.default is p.empty),
            most=float("inf") if inspect.Parameter.VAR_POSITIONAL in kinds else len(positional),
            names=frozenset(p.name for p in by_name),
            any_name=inspect.Parameter.VAR_KEYWORD in kinds,
            needed_names=tuple(p.name for p in by_name if p.kind == p.KEYWORD_ONLY and p.default is p.empty),
            text=f"({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})",
        )

    @property
    def required(self) -> int:
        return len(self.needed)

    def takes(self, name: object) -> bool:
        return isinstance(name, str) and (self.any_name or name in self.names)

    def knows(self, names: Iterable[object]) -> bool:
        """Whether it takes one of them by name at least."""
        return any(self.takes(name) for name in names)

    def __str__(self) -> str:
        return self.text


def _only(rest: tuple[Any, ...] | dict[Any, Any]) -> Any:
    return next(iter(rest.values() if isinstance(rest, dict) else rest))


def differentiable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which can have no part in a gradient."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def label_of(entries: Mapping[Any, Any]) -> Any:
    """The entry that is named as labels are; `ABSENT` where none is."""
    return next((entries[name] for name in LABELS if name in entries), ABSENT)


def _targets_in(whole: Any) -> Any:
    """The targets of a batch that a function of the caller's is given, where they can be told."""
    entries = entries_of(whole)
    if entries is not None:
        return label_of(entries)
    return whole[1] if is_sequence(whole) and len(whole) == 2 else ABSENT


def _are_inputs(value: Any) -> bool:
    """Whether it is a sequence of inputs, and not one input that is a list of numbers or texts."""
    return is_sequence(value) and any(not isinstance(item, (str, bytes, int, float)) for item in value)


def _is_movable(value: Any) -> bool:
    return callable(getattr(value, "to", None)) and not isinstance(value, (type, nn.Module))


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, PackedSequence, str)) or _is_movable(leaf)


def _examples(*values: Any) -> int:
    """The length of the first tensor in these, which is looked for in one after another; 1 where there is none."""
    for value in values:
        for leaf in leaves(value):
            if isinstance(leaf, PackedSequence):
                return int(leaf.batch_sizes[0])
            if isinstance(leaf, Tensor) and leaf.ndim:
                return leaf.shape[0]
    return 1


def _list(names: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
