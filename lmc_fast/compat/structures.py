"""Modules that are alike: what a derived spec may be kept by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .. import symmetry

__all__ = ["derived", "structure_of"]

# What every module has, whatever it is.
_OF_ALL = frozenset(vars(nn.Module())) - {"training"}
_HOOKS = tuple(name for name in _OF_ALL if name.endswith("_hooks") and "state_dict" not in name)
_PLAIN = (bool, int, float, str, type(None))
_MOST_KEPT = 16
_kept: OrderedDict[Hashable, symmetry.PermutationSpec] = OrderedDict()


def derived(model: nn.Module, example_inputs: Any) -> symmetry.PermutationSpec:
    """`lmc_fast.derive_spec`; for a model that is like one before, what was found there, if it holds when it is tried.

    Scripts ask for the spec of each network that they match, and these differ in their weights alone. To try a spec
    takes a part of the time in which it is found.
    """
    structure = structure_of(model) if type(example_inputs) is Tensor else None
    if structure is None:
        return symmetry.derive_spec(model, example_inputs)
    key = (structure, example_inputs.shape, example_inputs.dtype, example_inputs.device)
    spec = _kept.get(key)
    if spec is not None:
        try:
            symmetry.verify_spec(model, spec, example_inputs)
            return spec
        except ValueError:
            # It does not hold here, or can't be tried: what holds is found anew.
            pass
    spec = symmetry.derive_spec(model, example_inputs)
    if spec.verified is not None:
        _kept[key] = spec
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return spec


def structure_of(model: nn.Module) -> Hashable | None:
    """All that tells a module from others but for the values of its weights; None where that can't be told.

    Classes, plain attributes, and the shapes, kinds and ties of parameters of every part. A part with hooks, a forward
    of its own, buffers (which may be masks) or attributes of other kinds may do anything.
    """
    parts: list[Any] = []
    first: dict[int, int] = {}
    for path, part in model.named_modules(remove_duplicate=False):
        if any(getattr(part, name) for name in _HOOKS) or (part._buffers and not isinstance(part, _NormBase)):
            return None
        told: list[Any] = [path, type(part), type(part).forward]
        for name, value in vars(part).items():
            if name in _OF_ALL:
                continue
            entries = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(entry, _PLAIN) for entry in entries):
                return None
            # 1, 1.0 and True are equal, and are not the same.
            told.append((name, type(value), tuple((type(entry), entry) for entry in entries)))
        for name, parameter in part._parameters.items():
            if parameter is not None:
                told.append((name, parameter.shape, parameter.dtype, first.setdefault(id(parameter), len(first))))
            else:
                told.append((name, None))
        parts.append(tuple(told))
    return tuple(parts)
