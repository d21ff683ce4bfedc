"""Where the units of a spec show up while a model runs, and hooks that look there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..._batches import Batch
from ..._calls import Calls
from ..._derived import derived_weights
from ..._models import own_names
from ..._norms import first_of
from ...symmetry import PermutationSpec

__all__ = ["Place", "entries_first", "places_of", "places_used", "run", "watching"]


@dataclass(frozen=True)
class Place:
    """The input or the output of a module, one of whose dimensions is split as an axis of its parameter.

    Attributes:
        module: its name.
        side: "input" or "output".
        dim: the dimension of that tensor.
        parameter, axis: which axis (of the spec's) says how the dimension is split.
    """

    module: str
    side: str
    dim: int
    parameter: str
    axis: int


def places_of(model: nn.Module, spec: PermutationSpec) -> list[Place]:
    """All places where units of a bound spec show up, in the order of the model's modules, shared modules once.

    Known are Linear, Embedding, convolutions and norms, and what is derived from them.
    """
    found = []
    saved_as = {own: saved for saved, own in own_names(model).items()}
    # These have the axes of the weight.
    sources = {
        derived.name: derived.main
        for derived in derived_weights(model, model.state_dict())
        if derived.kind != "parametrised"
    }
    for name, module in model.named_modules():
        for side, dim, candidates in _sides(module):
            for parameter, axis in candidates:
                own = f"{name}.{parameter}" if name else parameter
                full = saved_as.get(own, sources.get(own, own))
                axes = spec.axes.get(full, ())
                if axis < len(axes) and all(each.dims == 1 for each in axes):
                    if not axes[axis].is_fixed:
                        found.append(Place(name, side, dim, full, axis))
                    break
    return found


def _sides(module: nn.Module) -> Iterator[tuple[str, int, tuple[tuple[str, int], ...]]]:
    """(side, dimension, (parameter, axis) pairs any of which tells how it is split) of a module."""
    if isinstance(module, nn.Linear):
        yield "input", -1, (("weight", 1),)
        yield "output", -1, (("weight", 0), ("bias", 0))
    elif isinstance(module, _ConvNd):
        channels = -1 - len(module.kernel_size)
        transposed = isinstance(module, _ConvTransposeNd)
        inputs, outputs = ("weight", 0 if transposed else 1), ("weight", 1 if transposed else 0)
        # A grouped convolution's weight has but a part of the channels on one of its axes.
        if module.groups == 1 or transposed:
            yield "input", channels, (inputs,)
        yield "output", channels, (outputs, ("bias", 0)) if module.groups == 1 or not transposed else (("bias", 0),)
    elif isinstance(module, nn.Embedding):
        yield "output", -1, (("weight", 1),)
    elif isinstance(module, (_NormBase, nn.GroupNorm)):
        yield "output", 1, (("weight", 0), ("running_mean", 0))
    # Over several dimensions the weight of these has as many, and is no axis of units.
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        yield "output", -1, (("weight", 0),)


def places_used(model: nn.Module, places: Sequence[Place], calls: Calls, batch: Batch) -> dict[Place, int]:
    """Run one batch and keep the places that show up, in the order of the run, with how often each does.

    Of several places on one side that see the very same tensor the first is kept. An output that goes
    straight into a BatchNorm is left to the output of that.
    """
    seen: dict[Place, list[tuple[Tensor, int]]] = {}

    def see(place: Place, shown: Tensor) -> None:
        # Kept, for its id to stay its own. One that is written to in place is another one from then on.
        seen.setdefault(place, []).append((shown, 0 if shown.is_inference() else shown._version))

    norms = [Place(name, "input", 1, "", 0) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    with watching(model, [*places, *norms], see):
        run(model, calls, batch)
    normalised = {(id(tensor), version) for norm in norms for tensor, version in seen.pop(norm, ())}
    used: dict[Place, int] = {}
    known = set()
    for place, tensors in seen.items():
        ids = tuple((id(tensor), version) for tensor, version in tensors)
        key = (ids, place.side, place.dim)
        if key in known or (place.side == "output" and normalised.issuperset(ids)):
            continue
        known.add(key)
        used[place] = len(tensors)
    return used


@contextmanager
def watching(model: nn.Module, places: Iterable[Place], see: Callable[[Place, Tensor], None]) -> Iterator[None]:
    """Call ``see(place, its tensor)`` whenever a place's module has run in this thread; no hooks are left at the end.

    The module may be running in other threads too.
    """
    handles = []
    thread = threading.get_ident()

    def hook_of(place: Place) -> Callable[..., None]:
        # Another thread that meets the hook half put in or half taken out calls it without keyword arguments.
        def hook(module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
            if threading.get_ident() != thread:
                return
            kwargs, output = rest
            see(place, first_of(args, kwargs) if place.side == "input" else output)

        return hook

    try:
        for place in places:
            module = model.get_submodule(place.module)
            handles.append(module.register_forward_hook(hook_of(place), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model: nn.Module, calls: Calls, batch: Batch) -> None:
    """Run a model on a batch, without gradients."""
    with torch.no_grad():
        calls.outputs(model, batch)


def entries_first(tensor: Tensor, dim: int) -> Tensor:
    """What a place shows as [entries, samples]: map positions, tokens and examples are samples all alike."""
    return tensor.detach().movedim(dim, 0).reshape(tensor.shape[dim], -1)
