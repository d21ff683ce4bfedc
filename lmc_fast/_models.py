"""Modules and state dicts, seen as one thing: named tensors that are read here and never written."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ._checks import fail_type
from ._copies import copied
from ._derived import refresh
from ._tensors import identities, is_as_stored, plain, plain_at_once, tensor_identity, unsummable
from ._wrappers import met, unwrapped

__all__ = [
    "Model",
    "ModelT",
    "accumulate_dtype",
    "check_batches",
    "check_numbers",
    "check_same_tensors",
    "check_ties",
    "copied",
    "counted_names",
    "device_of",
    "equal_names",
    "load_tensors",
    "modes_kept",
    "own_names",
    "tensor_identity",
    "tensors_of",
    "unsaved_buffers",
    "unwrapped",
    "with_tensors",
]

Model = nn.Module | Mapping[str, Tensor]
ModelT = TypeVar("ModelT", bound=Model)

# Statistics of the data, not weights: they are permuted with their units, and count in no distance.
STATISTICS = ("running_mean", "running_var")


def tensors_of(argument: str, model: object, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """The named tensors of a module (its state dict) or of a mapping, detached and not copied, as `plain` makes them.

    Wrappers around a module are looked through, so that names are those of the module inside.

    Args:
        shapes_only: nobody will look at the numbers: models on the meta device will do.

    Raises:
        TypeError: `model` is neither, or a mapping of something other than names to tensors.
        ValueError: a lazy module that has no weights yet, or a tensor whose numbers are not at hand.
    """
    if isinstance(model, Mapping):
        found: Mapping[Any, Any] = model
    elif isinstance(model, (nn.Module, torch.export.ExportedProgram)):
        module = unwrapped(argument, model)
        # A module may keep things of its own beside its tensors.
        found = {name: entry for name, entry in module.state_dict().items() if isinstance(entry, Tensor)}
    else:
        fail_type(argument, "a torch.nn.Module or a state dict", model)
    at_once = plain_at_once(list(found.values())) if {str}.issuperset(map(type, found)) else None
    if at_once is not None:
        return dict(zip(found, at_once, strict=True))
    tensors = {}
    made: dict[Hashable, Tensor] = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            fail_type(f"{argument}[{name!r}]", "a tensor under its parameter's name", tensor)
        if is_lazy(tensor):
            raise ValueError(f"{argument} must have its weights, but {name!r} is lazy: run the model once first")
        ready = plain(f"{argument}[{name!r}]", tensor, shapes_only=shapes_only)
        # Of a tied tensor that had to be gathered or computed, one copy under all of its names.
        tensors[name] = ready if is_as_stored(tensor) else made.setdefault(tensor_identity(tensor), ready)
    return tensors


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are not in the module's state dict (``persistent=False``), by name, as they are."""
    state = module.state_dict()
    saved = state.keys() | own_names(module, state).values()
    return {name: buffer for name, buffer in module.named_buffers(remove_duplicate=False) if name not in saved}


def own_names(module: nn.Module, saved: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What the module itself calls tensors that are under another name in its state dict, `saved` where it is at hand.

    Hooks on the state dict rename, and so do wrappers of parts (activation checkpointing).
    """
    own = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    saved = module.state_dict() if saved is None else saved
    strangers = {name: tensor for name, tensor in saved.items() if name not in own and isinstance(tensor, Tensor)}
    if not strangers:
        return {}
    by_identity = {tensor_identity(tensor): name for name, tensor in reversed(own.items()) if name not in saved}
    found = {name: by_identity.get(tensor_identity(tensor)) for name, tensor in strangers.items()}
    return {name: other for name, other in found.items() if other is not None}


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the module, which keeps what is not among them.

    Raises:
        ValueError: the module does not take them all. One whose state dict is a part of it (without a frozen base,
            say) need not be given the rest.
    """
    entries = {**module.state_dict(), **tensors}
    try:
        module.load_state_dict(entries)
    except RuntimeError as error:
        try:
            result = module.load_state_dict(entries, strict=False)
        except RuntimeError:
            result = None
        if result is None or result.unexpected_keys:
            raise ValueError(f"model must take its own state dict, but load_state_dict says: {error}") from error


class _MayMove(Protocol):
    """An axis of a spec."""

    @property
    def is_fixed(self) -> bool: ...


def check_numbers(
    argument: str, tensors: Mapping[str, Tensor], axes: Mapping[str, Sequence[_MayMove]] | None = None
) -> None:
    """Raise ValueError, naming the tensor, unless all of `tensors_of` hold plain numbers that can be summed.

    Args:
        axes: of a spec, by name: what none of its groups touches may hold anything, for it counts in no distance and
            moves with no unit. None: nothing may.
    """
    for name, tensor in tensors.items():
        kind = unsummable(tensor)
        if kind is not None and (axes is None or not all(axis.is_fixed for axis in axes.get(name, ()))):
            takes = "a dense float16, bfloat16, float32, float64 or integer tensor"
            raise ValueError(f"{argument}[{name!r}] must be {takes}, got {kind}")


def with_tensors(model: ModelT, tensors: dict[str, Tensor]) -> ModelT:
    """A model of the same kind as `model` that holds `tensors`: a new module, or `tensors` as they are.

    A module is copied out of its wrappers (hooks and training mode stay, gradients do not); `tensors` are copied into
    it, in its own dtypes and on its own devices.
    """
    if not isinstance(model, nn.Module):
        return tensors  # type: ignore[return-value]
    module = copied(unwrapped("model", model))
    check_ties(module, tensors)
    load_tensors(module, tensors)
    refresh(module)
    return module  # type: ignore[return-value]


def check_same_tensors(
    argument: str, tensors: Mapping[str, Tensor], reference_argument: str, reference: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors under the reference's names, which may differ by what wrappers put into them.

    Raises:
        ValueError: the two do not hold the same names, shapes and kinds of number; the message names the first
            difference.
    """
    tensors = met(tensors, reference)
    for name, tensor in reference.items():
        if name not in tensors:
            raise ValueError(f"{argument} must have the tensors of {reference_argument}, but lacks {name!r}")
        other = tensors[name]
        if other.shape != tensor.shape:
            raise ValueError(
                f"{argument} must have the shapes of {reference_argument}, but {name!r} is {tuple(other.shape)} "
                f"there and {tuple(tensor.shape)} in {reference_argument}"
            )
        if other.is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{argument} must hold floating point numbers where {reference_argument} does, but {name!r} is "
                f"{other.dtype} there and {tensor.dtype} in {reference_argument}"
            )
    extra = next((name for name in tensors if name not in reference), None)
    if extra is not None:
        raise ValueError(f"{argument} must have the tensors of {reference_argument}, but has {extra!r} as well")
    return tensors


def check_ties(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the module has one tensor under two names, and is to hold different ones there."""
    first: dict[Hashable, str] = {}
    for name, own in module.state_dict().items():
        if name not in tensors or not isinstance(own, Tensor):
            continue
        other = first.setdefault(tensor_identity(own), name)
        one, two = tensors[other], tensors[name]
        if one is not two and tensor_identity(one) != tensor_identity(two) and not _are_equal(one, two):
            raise ValueError(
                f"model has one tied tensor as {other!r} and {name!r}, but the other models hold different ones there: "
                "tie these, or untie it"
            )


def _are_equal(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    return torch.equal(one, two) or bool(((one == two) | ((one != one) & (two != two))).all())


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put the training mode of every part back at the end."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are; the CPU for one without any."""
    return next((tensor.device for tensor in tensors_of("model", module).values()), torch.device("cpu"))


def counted_names(model: Model, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that count in distances: every weight once, no buffers, nothing integer.

    A tied weight counts under its first name. Of a state dict, which does not tell buffers from weights, the
    running statistics of normalisation layers are known by name.
    """
    buffers: set[str] = set()
    if isinstance(model, nn.Module):
        module = unwrapped("model", model)
        buffers = {name for name, _ in module.named_buffers()}
        buffers |= {name for name, own in own_names(module).items() if own in buffers}
    names = [
        name
        for name, tensor in tensors.items()
        if name not in buffers and name.rpartition(".")[2] not in STATISTICS and tensor.is_floating_point()
    ]
    first: dict[Hashable, str] = {}
    for name, identity in zip(names, identities([tensors[name] for name in names]), strict=True):
        first.setdefault(identity, name)
    return list(first.values())


def equal_names(states: Sequence[Mapping[str, Tensor]], names: Sequence[str], axes: Mapping[str, object]) -> set[str]:
    """Of these names those of matrices that are, in every state dict, equal to one named before on the same axes.

    A file does not tell that weights are tied, and equal ones are moved alike.
    """
    first: dict[Hashable, list[str]] = {}
    again = set()
    for name in names:
        tensor = states[0][name]
        if tensor.ndim < 2 or tensor.numel() == 0:
            continue
        alike = first.setdefault((tensor.shape, tensor.dtype, axes.get(name)), [])
        if any(all(_same_numbers(state[name], state[other]) for state in states) for other in alike):
            again.add(name)
        else:
            alike.append(name)
    return again


def _same_numbers(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors of one shape, not empty, are equal; first rows alone tell most apart that differ."""
    return torch.equal(one[0], two[0]) and torch.equal(one, two)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums over tensors of `dtype` are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_batches(argument: str, batches: object) -> Iterable[Any]:
    """Return `batches` if it can be run through more than once; TypeError for a tensor or a one-shot iterator."""
    takes = "batches that can be gone through again and again (a list, a DataLoader)"
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        fail_type(argument, takes, batches)
    return batches
