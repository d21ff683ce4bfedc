"""Copies of modules, of those too that keep what cannot be copied, or whose parameters are spread over processes."""

from __future__ import annotations

import contextlib
import copy
import pickle
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from ._derived import prune_first
from ._references import PROXIES, deep_copied, led_over
from ._tensors import plain, tensor_identity

__all__ = ["FSDP1", "copied", "is_sharded", "unsharded"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# What is raised by what does not want to be copied: torch of activations, Python of locks and files, other classes.
_REFUSALS = (
    *(TypeError, RuntimeError, ValueError, AttributeError, AssertionError, OSError, LookupError, ReferenceError),
    *(pickle.PicklingError, copy.Error),
)
# What nn.Module keeps by itself.
_OWN = frozenset(nn.Module().__dict__)
_CONTAINERS = (dict, list, tuple, set, frozenset)

FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
_DISTRIBUTED = "torch.distributed"
# What sharding leaves on a module: its state by a key of its own, marks, and the flattened parameters.
_SHARDING_KEYS = ("__composable_api_state_key", "_fsdp_use_orig_params", "_is_fsdp_managed_module", "_flat_param")


def copied(module: ModuleT) -> ModuleT:
    """A copy with tensors of its own: hooks and training modes stay, gradients do not.

    Beside parameters, buffers and modules all else is copied too, as `copy.deepcopy` does. What refuses that (a lock,
    a file, a logger, a trainer) is shared by both; an activation that a forward pass left behind comes without its
    history. Closures, weak references and what refuses to be copied refer to the copy where they refer to the module
    or to parts of it.

    Raises:
        TypeError: something of the module cannot be copied even so; the message names where it is.
    """
    try:
        twin = deep_copied(module, {})
    except _REFUSALS:
        twin = _copied_around(module)
    if _is_shared(module, twin):
        # A __deepcopy__ of its own, that means to share: nothing of the caller's is to be written to.
        twin = _gathered_and_led(module)  # type: ignore[assignment]
    _copy_slots(module, twin)
    prune_first(twin)
    twin.zero_grad(set_to_none=True)
    return twin


def _is_shared(module: nn.Module, twin: nn.Module) -> bool:
    """Whether a copy has modules, parameters or buffers of the original."""
    return not _belongings(module).isdisjoint(_belongings(twin))


def _belongings(module: nn.Module) -> set[Hashable]:
    tensors = (*module.parameters(), *module.buffers())
    return {id(part) for part in module.modules()} | {tensor_identity(tensor) for tensor in tensors}


def _copy_slots(module: nn.Module, twin: nn.Module) -> None:
    """Give a copy what classes keep in ``__slots__``, which modules leave out of their state."""
    for part, other in zip(module.modules(), twin.modules(), strict=False):
        for kind in type(part).__mro__:
            slots = vars(kind).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if hasattr(part, slot) and not hasattr(other, slot):
                    value = getattr(part, slot)
                    stand_ins = {id(refusing): stand_in for refusing, stand_in in _stand_ins(value, set())}
                    object.__setattr__(other, slot, copy.deepcopy(value, stand_ins))


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters are spread over processes (fully_shard, tensor parallel), or wrapped to be."""
    parts: set[type] = set()
    tensors: set[type] = set()
    for part in module.modules():
        parts.add(type(part))
        tensors.update(map(type, part._parameters.values()))
    return any(hasattr(kind, "full_tensor") for kind in tensors) or any(map(_is_kind_of_fsdp1, parts))


def unsharded(module: nn.Module) -> nn.Module:
    """An ordinary module with the whole parameters, gathered, of one that is sharded; that stays as it is.

    All processes that hold a part have to call this together. Hooks of torch.distributed are left out.
    """
    wrappers: list[Any] = [part for part in module.modules() if _is_fsdp1(part)]
    if not wrappers:
        return _gathered_and_led(module)
    with type(wrappers[0]).summon_full_params(module, writeback=False):
        return _gathered_and_led(module)


def _gathered_and_led(module: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    twin = _gathered(module, memo)
    led_over(twin, memo)
    return twin


def _gathered(part: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """The copy of one module of a sharded one, with all that is in it."""
    while _is_fsdp1(part):
        part = part.get_submodule("_fsdp_wrapped_module")
    if id(part) in memo:
        known: nn.Module = memo[id(part)]
        return known
    kind: Any = type(part)
    while kind.__module__.startswith(f"{_DISTRIBUTED}.fsdp"):
        kind = kind.__bases__[-1]
    twin: nn.Module = kind.__new__(kind)
    memo[id(part)] = twin
    modules = {name: child and _gathered(child, memo) for name, child in part._modules.items()}
    state = {name: value for name, value in part.__dict__.items() if not name.startswith(_SHARDING_KEYS)}
    for name, value in state.items():
        if name == "_modules":
            state[name] = modules
        elif name in ("_parameters", "_buffers"):
            state[name] = _whole_tensors(value, memo)
        elif name.endswith("_hooks"):
            state[name] = type(value)((key, hook) for key, hook in value.items() if not _is_distributed(hook))
        else:
            for refusing, stand_in in _stand_ins(value, set()):
                memo[id(refusing)] = stand_in
            state[name] = copy.deepcopy(value, memo)
    twin.__dict__.update(state)
    return twin


def _whole_tensors(tensors: Mapping[str, Tensor | None], memo: dict[int, Any]) -> dict[str, Tensor | None]:
    """New tensors with the whole content of these, tied ones once."""
    whole: dict[str, Tensor | None] = {}
    for name, tensor in tensors.items():
        if name.startswith(_SHARDING_KEYS):
            continue
        if tensor is not None and id(tensor) not in memo:
            content = plain(name, tensor).clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(content, tensor.requires_grad) if is_parameter else content
        whole[name] = None if tensor is None else memo[id(tensor)]
    return whole


def _is_fsdp1(part: nn.Module) -> bool:
    return _is_kind_of_fsdp1(type(part))


def _is_kind_of_fsdp1(of: type) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" == FSDP1 for kind in of.__mro__)


def _is_distributed(hook: Any) -> bool:
    """Whether a hook, or the wrapper of one, belongs to torch.distributed."""
    hook = getattr(hook, "hook", hook)
    owner = getattr(hook, "__self__", None)
    kind = getattr(hook, "__module__", None) if owner is None else type(owner).__module__
    return str(kind or type(hook).__module__).startswith(_DISTRIBUTED)


def _copied_around(module: ModuleT) -> ModuleT:
    """As `copy.deepcopy`, which is told beforehand what stands for each thing that it could not copy."""
    memo: dict[int, Any] = {}
    # The memo knows things by where they are, so that they must stay there.
    held: list[Any] = []
    seen: set[int] = set()
    for part in module.modules():
        for value in _extras(part):
            for refusing, stand_in in _stand_ins(value, seen):
                memo[id(refusing)] = stand_in
                held.append(refusing)
    try:
        return deep_copied(module, memo)
    except _REFUSALS as error:
        if any(hasattr(type(part), "__deepcopy__") for part in module.modules()):
            with contextlib.suppress(*_REFUSALS):
                return _gathered_and_led(module)  # type: ignore[return-value]
        name, why = _culprit(module, memo, error)
        raise TypeError(
            f"{name} cannot be copied ({type(why).__name__}: {_first_line(why)}): take it off the model, or pass state "
            "dicts where no forward pass is needed"
        ) from error


def _extras(part: nn.Module) -> Iterator[Any]:
    """What a module keeps beside what every module has, its hooks and buffers included."""
    for name, value in part.__dict__.items():
        if name not in _OWN:
            yield value
        elif name.endswith("_hooks") or name == "_buffers":
            yield from value.values()


def _stand_ins(value: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Things within `value` that cannot be copied, each with what is to stand for it in the copy."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if type(value) in PROXIES:
        # It would be what it refers to.
        yield value, value
        return
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value, value.detach().clone()
    elif isinstance(value, _CONTAINERS):
        for entry in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            yield from _stand_ins(entry, seen)
    elif not isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType)) and not _copies(value):
        yield value, value


def _copies(value: Any) -> bool:
    """Whether `copy.deepcopy` takes it."""
    try:
        copy.deepcopy(value)
    except _REFUSALS:
        return False
    return True


def _culprit(module: nn.Module, memo: dict[int, Any], error: BaseException) -> tuple[str, BaseException]:
    """The attribute that stands in the way of a copy, and what it says."""
    for path, part in module.named_modules():
        for name, value in part.__dict__.items():
            if name in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except _REFUSALS as found:
                return f"attribute {f'{path}.{name}'.lstrip('.')!r} of the model", found
    return f"the model, a {type(module).__name__},", error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
