"""Where the units of a spec show up while a model runs, whatever code runs: operations that use its parameters.

Operations are seen below modules, functions and autograd, so that it makes no difference whether a weight belongs to a
layer, is a bare parameter, is cut out of a larger one, or is computed from others first. Nothing is put into the
model, and other threads that run it are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..._batches import Batch
from ..._calls import Calls
from ..._models import own_names
from ..._modes import uncompiled
from ...symmetry import PermutationSpec
from ...symmetry.groups import axis_size
from .labels import AxisKey, Labels, labels_of, packet_name, placed, through
from .uses import NORMALISING, is_shown_by_constants, uses_of

__all__ = ["Seen", "Spot", "Weights", "run_seen", "spots_used", "value_key"]


@dataclass(frozen=True)
class Spot:
    """What goes into an operation with a parameter, or what comes out of it, along dimensions that hold units.

    Attributes:
        parameter, axis: which axis (of the spec's) says how these dimensions are split.
        side: "input" or "output".
        op: the operation's name.
        dims: the dimensions, counted from the end; taken as one.
        entries: of each entry there its number along the axis, int64 as bytes, -1 for none of it; None: the whole axis.
    """

    parameter: str
    axis: int
    side: str
    op: str
    dims: tuple[int, ...]
    entries: bytes | None = None

    @property
    def module(self) -> str:
        """The name of the module that holds the parameter; of one that no other holds, the parameter's."""
        return self.parameter.rpartition(".")[0] or self.parameter

    @property
    def numbers(self) -> Tensor | None:
        """`entries` as int64 [entries]."""
        return None if self.entries is None else torch.frombuffer(bytearray(self.entries), dtype=torch.int64)

    def rows(self, shown: Tensor) -> Tensor:
        """What is shown as [entries, samples]: map positions, tokens and examples are samples all alike."""
        front = shown.detach().movedim(self.dims, tuple(range(len(self.dims)))).flatten(0, len(self.dims) - 1)
        return front.reshape(front.shape[0], -1)


# Called with a spot and the value there, as it is.
Seen = Callable[[Spot, Tensor], None]


class Weights:
    """The parameters of one model, with what is known of each.

    Args:
        model: unwrapped.
        spec: bound to it.
    """

    def __init__(self, model: nn.Module, spec: PermutationSpec) -> None:
        own = own_names(model)
        saved_as: dict[int, str] = {}
        tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        for name in spec.axes:
            tensor = tensors.get(own.get(name, name))
            if tensor is not None:
                saved_as.setdefault(id(tensor), name)
        self.sizes: dict[AxisKey, int] = {
            (name, position): axis_size(axis.segments, spec.sizes)
            for name, axes in spec.axes.items()
            for position, axis in enumerate(axes)
        }
        self._kept = list(tensors.values())
        self._by_id: dict[int, Labels] = {}
        self._by_storage: dict[Hashable, Labels] = {}
        for tensor in self._kept:
            saved = saved_as.get(id(tensor))
            labels = Labels(tensor.shape, {}) if saved is None else labels_of(spec, saved, tensor.shape)
            self._by_id.setdefault(id(tensor), labels)
            # As `.data` gives it.
            self._by_storage.setdefault(_storage_key(tensor), labels)

    def find(self, tensor: Tensor) -> Labels | None:
        """Of a parameter or buffer, or of another tensor on its memory; None for any other."""
        found = self._by_id.get(id(tensor))
        return self._by_storage.get(_storage_key(tensor)) if found is None else found


def _memory(tensor: Tensor) -> Hashable:
    if tensor.layout != torch.strided or tensor.is_nested:
        return id(tensor)
    found: Hashable = tensor.untyped_storage()._cdata
    return found


def _storage_key(tensor: Tensor) -> Hashable:
    memory = _memory(tensor)
    return memory if memory == id(tensor) else (memory, tensor.storage_offset(), tensor.shape, tensor.stride())


def value_key(tensor: Tensor) -> Hashable:
    """Equal for two tensors on one memory that has not been written to in between, while both are alive."""
    return _storage_key(tensor), 0 if tensor.is_inference() else tensor._version


class _Seeing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of every value that is seen at a spot, while it is entered.

    Args:
        weights: of the model that runs.
        see: called for each; must not keep the value itself, which may be written to later on.
        normalised: called with what goes into a batch normalisation that shows units itself.
        missed: why axes are not seen where their parameters are used, by axis; written to.
    """

    supports_higher_order_operators = True

    def __init__(
        self, weights: Weights, see: Seen, normalised: Callable[[Tensor], None], missed: dict[AxisKey, str]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights, self.see, self.normalised, self.missed = weights, see, normalised, missed
        # Computed from parameters and constants alone.
        self._constant: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        with self:
            # In inference mode operations come whole that are made of others.
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        found = [self._find(tensor) for tensor in tensors]
        if all(labels is not None for labels in found):
            if torch.Tag.nondeterministic_seeded not in func.tags:
                self._computed(func, args, kwargs, result, any(labels.of for labels in found if labels is not None))
            return result
        if func._schema.is_mutable and tensors[0] in self._constant:
            self._written(tensors[0])
        if any(labels is not None and labels.of for labels in found):
            self._used(func, args, kwargs, result, tell=True)
        return result

    def _find(self, tensor: Tensor) -> Labels | None:
        known: Labels | None = self._constant.get(tensor)
        return self.weights.find(tensor) if known is None else known

    def _written(self, tensor: Tensor) -> None:
        """What depends on the input has been written into a tensor, of which others may be views."""
        memory = _memory(tensor)
        for other in list(self._constant.keys()):
            if _memory(other) == memory:
                del self._constant[other]

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any, labelled: bool) -> None:
        """Take note of results that no input goes into."""
        results = result if isinstance(result, (list, tuple)) else [result]
        found: list[Any] = [{}] * len(results)
        if labelled:
            uses = uses_of(func, args, kwargs)
            if uses is not None and not _is_elementwise(func):
                found = [self._used(func, args, kwargs, result, tell=is_shown_by_constants(func)), *found[1:]]
            else:
                found = self._through(func, args, kwargs)
                if found == [None]:
                    self._miss(func, args, kwargs)
                    found = [{}] * len(results)
        for each, of in zip(results, found, strict=False):
            if isinstance(each, Tensor):
                self._constant[each] = Labels(each.shape, of)

    def _through(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> list[Any]:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        first = self._find(tensors[0])
        assert first is not None
        # What becomes of one tensor alone is the same whenever it is asked.
        asked = (func, repr(args[1:]), repr(kwargs)) if len(tensors) == 1 else None
        if asked is None or asked not in first.known:
            with torch.no_grad():
                found = through(func, args, kwargs, self._known)
            if asked is None:
                return found
            first.known[asked] = found
        known: list[Any] = first.known[asked]
        return known

    def _known(self, tensor: Tensor) -> Labels:
        found = self._find(tensor)
        assert found is not None
        return found

    def _used(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any, *, tell: bool) -> dict[AxisKey, Tensor]:
        """Tell of what an operation shows; the numbers of its result's entries by axis."""
        given: dict[AxisKey, Tensor] = {}
        uses = uses_of(func, args, kwargs)
        if uses is None:
            self._miss(func, args, kwargs)
            return given
        output = result[0] if isinstance(result, (list, tuple)) else result
        shows = False
        for use in uses:
            labels = self._find(use.weight)
            for key in [] if labels is None else labels.of:
                assert labels is not None
                if labels.of[key].numel() == 1:
                    continue
                at_input = None
                if use.meets is not None and self._find(use.meets) is None:
                    at_input = self._show(func, labels, key, use.met, use.meets, "input", tell)
                at_output = self._show(func, labels, key, use.gives, output, "output", tell)
                if at_output is not None:
                    given[key] = at_output
                    shows = True
                if at_input is None and at_output is None:
                    self._note(func, key)
        if shows and func.overloadpacket.__name__ in NORMALISING:
            self.normalised(args[0])
        return given

    def _show(
        self, func: Any, labels: Labels, key: AxisKey, where: Any, value: Tensor, side: str, tell: bool
    ) -> Tensor | None:
        """The numbers over the value's dimensions; None where they are not over these."""
        asked = (func, key, side, tuple(where.items()), value.ndim)
        if asked not in labels.known:
            labels.known[asked] = self._spot(func, labels.of[key], key, where, value.ndim, side)
        there, spot = labels.known[asked]
        if there is None or any(size not in (1, extent) for size, extent in zip(there.shape, value.shape, strict=True)):
            return None
        if tell:
            self.see(spot, value)
        numbers: Tensor = there
        return numbers

    def _spot(
        self, func: Any, numbers: Tensor, key: AxisKey, where: Any, ndim: int, side: str
    ) -> tuple[Tensor | None, Spot | None]:
        """Numbers over the dimensions of a value, and the spot that they make."""
        there = placed(numbers, where, ndim)
        flat = torch.empty(0, dtype=torch.int64) if there is None else there.flatten()
        units = flat[flat >= 0].tolist()
        if there is None or len(set(units)) < len(units):
            # Not all are there, or one and the same unit at several places.
            return None, None
        dims = tuple(dim - ndim for dim, size in enumerate(there.shape) if size > 1)
        whole = len(flat) == self.weights.sizes[key] and torch.equal(flat, torch.arange(len(flat)))
        return there, Spot(*key, side, packet_name(func), dims, None if whole else flat.numpy().tobytes())

    def _miss(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        for leaf in tree_leaves((args, kwargs)):
            labels = self._find(leaf) if isinstance(leaf, Tensor) else None
            for key in () if labels is None else labels.of:
                self._note(func, key)

    def _note(self, func: Any, key: AxisKey) -> None:
        self.missed.setdefault(key, f"{packet_name(func)} does not show the units of {key[0]!r} one by one")


def _is_elementwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in (
        "index",
        "index_select",
        "_to_copy",
        "clone",
    )


class _Slow(TorchFunctionMode):
    """Keeps torch's own layers from running as one operation, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def run_seen(
    model: nn.Module,
    calls: Calls,
    batch: Batch,
    weights: Weights,
    see: Seen,
    normalised: Callable[[Tensor], None] = lambda _: None,
    missed: dict[AxisKey, str] | None = None,
) -> None:
    """Run a model on a batch, without gradients, and call ``see(spot, value)`` for all that is seen on the way."""
    mode = _Seeing(weights, see, normalised, {} if missed is None else missed)
    with uncompiled(), torch.no_grad(), _Slow(), mode:
        calls.outputs(model, batch)


def spots_used(
    model: nn.Module, calls: Calls, batch: Batch, weights: Weights, missed: dict[AxisKey, str]
) -> dict[Spot, int]:
    """Run one batch and keep the spots, in the order of the run, with how often each shows up.

    Of several spots on one side that see the very same value the first is kept. An output that goes straight into a
    batch normalisation is left to the output of that.
    """
    seen: dict[Spot, list[Hashable]] = {}
    # Alive, for their memory to stay their own.
    alive: list[Tensor] = []
    normalised: set[Hashable] = set()

    def see(spot: Spot, value: Tensor) -> None:
        alive.append(value)
        seen.setdefault(spot, []).append(value_key(value))

    def to_norm(value: Tensor) -> None:
        normalised.add(value_key(value))

    run_seen(model, calls, batch, weights, see, to_norm, missed)
    used: dict[Spot, int] = {}
    known = set()
    for spot, keys in seen.items():
        key = (tuple(keys), spot.side, spot.dims)
        if key in known or (spot.side == "output" and normalised.issuperset(keys)):
            continue
        known.add(key)
        used[spot] = len(keys)
    return used
