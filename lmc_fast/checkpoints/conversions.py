"""How the tensors of a model directory become the module's: under other names, or several of them one.

`transformers` renames as it loads and as it saves, and lays experts' weights into one tensor. Its own conversions are
run here, group by group, so that no more than one group need be at hand.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .headers import StoredTensor

__all__ = ["Conversion", "conversions_of"]

Change = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Conversion:
    """Tensors of a checkpoint that become tensors of the module together, most often one that becomes one.

    Attributes:
        sources: names in the checkpoint.
        targets: names in the module's state dict.
        is_plain: whether it is one tensor as it is, under the same or another name.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    is_plain: bool = True
    _load: Change | None = field(default=None, repr=False)
    _store: Change | None = field(default=None, repr=False)

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's tensors from the checkpoint's."""
        if self._load is None:
            return {self.targets[0]: tensors[self.sources[0]]}
        return self._load(tensors)

    def store(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors from the module's: what `load` does, backwards."""
        if self._store is None:
            return {self.sources[0]: tensors[self.targets[0]]}
        return self._store(tensors)


def conversions_of(module: nn.Module, tensors: Mapping[str, StoredTensor], where: str) -> tuple[Conversion, ...]:
    """Find how a checkpoint's tensors become those of a module's state dict.

    Args:
        module: on the meta device.
        tensors: of the checkpoint, by name.
        where: what the checkpoint is called in a message.

    Returns:
        One for every group of tensors that go together, in the checkpoint's order. Tied tensors that the checkpoint
        holds once are targets under that name only.

    Raises:
        ValueError: a tensor that the module has no place for, one of another shape, one that is missing; the message
            names it.
    """
    own = {name: entry for name, entry in module.state_dict().items() if isinstance(entry, Tensor)}
    found = _converted(module, tensors, own) if hasattr(module, "base_model_prefix") else _renamed(module, tensors)
    # What the module keeps without saving it, as older versions did (position_ids).
    held = {name: entry for name, entry in module.named_buffers() if name not in own}
    kept = []
    for each in found:
        strange = next((name for name in each.targets if name not in own), None)
        if strange is None:
            _check_shapes(each, tensors, own, where)
            kept.append(each)
        elif strange not in held and not _is_ignored(module, strange):
            raise ValueError(
                f"{where} holds {each.sources[0]!r}, which {type(module).__name__} has no place for: name a class that "
                "has one (architecture=)"
            )
    _check_all_there(module, kept, own, where)
    return tuple(kept)


def _check_shapes(each: Conversion, tensors: Mapping[str, StoredTensor], own: Mapping[str, Tensor], where: str) -> None:
    given = {name: on_meta(tensors[name]) for name in each.sources}
    made = each.load(given)
    for name, tensor in made.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{where} holds {each.sources[0]!r} of shape {tuple(tensors[each.sources[0]].shape)}, and the "
                f"configuration makes {name!r} {tuple(own[name].shape)}"
            )
    back = each.store(made)
    if {name: tensor.shape for name, tensor in back.items()} != {n: tensor.shape for n, tensor in given.items()}:
        raise ValueError(f"{where} holds {each.sources[0]!r} in a form that cannot be written again")


def _check_all_there(module: nn.Module, found: list[Conversion], own: Mapping[str, Tensor], where: str) -> None:
    held = {name for each in found for name in each.targets}
    tied = {id(own_tensor) for name, own_tensor in _all_tensors(module).items() if name in held}
    named = getattr(module, "all_tied_weights_keys", None) or {}
    ignored = getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
    for name in own:
        if name in held or id(_all_tensors(module).get(name)) in tied or named.get(name) in held:
            continue
        # Counters and the like begin anew.
        if own[name].is_floating_point() and not any(re.search(pattern, name) for pattern in ignored):
            raise ValueError(f"{where} lacks {name!r}, which {type(module).__name__} has (architecture= names another)")


def _all_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _is_ignored(module: nn.Module, name: str) -> bool:
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _renamed(module: Any, tensors: Mapping[str, StoredTensor]) -> list[Conversion]:
    """Names as they are, or as a model of diffusers renames those of its older versions."""
    names = {name: name for name in tensors}
    if hasattr(module, "_fix_state_dict_keys_on_load"):
        module._fix_state_dict_keys_on_load(names)
    return [Conversion((source,), (target,)) for target, source in names.items()]


def _converted(module: Any, tensors: Mapping[str, StoredTensor], own: Mapping[str, Tensor]) -> list[Conversion]:
    """Names and forms as transformers makes them."""
    try:
        loading = importlib.import_module("transformers.core_model_loading")
        mapping = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping(module)
    except ImportError:
        # Before version 5 files held what modules hold.
        prefix = str(module.base_model_prefix)
        return [Conversion((name,), (_prefixed(_modern(name), prefix, own),)) for name in tensors]
    renamings = [each for each in mapping if isinstance(each, loading.WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, loading.WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    plain: list[Conversion] = []
    joint: dict[str, tuple[Any, list[_Part]]] = {}
    prefix = module.base_model_prefix
    for name in sorted(tensors, key=loading.dot_natural_key):
        target, pattern = loading.rename_source_key(name, renamings, converters, prefix, own)
        if target not in own and name in own:
            target, pattern = name, None
        if pattern is None:
            plain.append(Conversion((name,), (target,)))
        else:
            joint.setdefault(target, (by_pattern[pattern], []))[1].append((name, pattern))
    order = {name: place for place, name in enumerate(tensors)}
    made = plain + [_joined(module, target, *entry, tensors, loading) for target, entry in joint.items()]
    return sorted(made, key=lambda each: order[each.sources[0]])


# A tensor's name, and the pattern of a converter that it goes by.
_Part = tuple[str, str]


def _joined(
    module: Any, target: str, converter: Any, sources: list[_Part], tensors: Mapping[str, StoredTensor], loading: Any
) -> Conversion:
    """A conversion that transformers knows an operation for, forwards and backwards."""

    def convert(way: Any, name: str, parts: list[_Part], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fresh = copy.deepcopy(way)
        for each, pattern in parts:
            fresh.add_tensor(name, each, pattern, given[each])
        made = fresh.convert(name, model=module, config=module.config)
        return {each: entry[0] if isinstance(entry, list) else entry for each, entry in made.items()}

    def load(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return convert(converter, target, sources, given)

    def store(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors, under its names, from the module's."""
        back = converter.reverse_transform()
        parts = [(name, back.rename_source_key(name)) for name in targets]
        made = convert(back, parts[0][1][0], [(name, pattern) for name, (_, pattern) in parts], given)
        # Under the names that the library would write; the checkpoint's stand in the same order, pattern by pattern.
        written: dict[str, list[str]] = {}
        for name in sorted(made, key=loading.dot_natural_key):
            written.setdefault(converter.rename_source_key(name)[1], []).append(name)
        named = {}
        for name, pattern in sources:
            if not written.get(pattern):
                return {}
            named[name] = made[written[pattern].pop(0)]
        return named

    shapes = {name: on_meta(tensors[name]) for name, _ in sources}
    targets = tuple(load(shapes))
    return Conversion(tuple(name for name, _ in sources), targets, False, load, store)


def on_meta(tensor: StoredTensor) -> Tensor:
    """A tensor of the same kind without numbers."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _modern(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _prefixed(name: str, prefix: str, own: Mapping[str, Tensor]) -> str:
    """A name with the base model's prefix where the module has it so, or without."""
    if name in own or not prefix:
        return name
    if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.") in own:
        return name.removeprefix(f"{prefix}.")
    return f"{prefix}.{name}" if f"{prefix}.{name}" in own else name
