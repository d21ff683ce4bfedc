"""Modules inside wrappers of parallel, compiled or averaged execution, and the names that wrappers give to tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn

from ._checks import fail_type
from ._copies import is_sharded, unsharded

__all__ = ["canonical", "met", "met_name", "unwrapped"]

T = TypeVar("T")

# Wrappers by the name of their class and where they keep the module: importing them all would be slow.
_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
}
# What wrappers put into names: at the front of all, or wherever a part was wrapped.
_FRONT = "module"
_ANYWHERE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# What AveragedModel keeps beside its module's tensors.
_OWN = frozenset({"n_averaged"})


def unwrapped(argument: str, model: object) -> nn.Module:
    """The module itself, without wrappers of parallel, compiled or averaged execution around it.

    Of one whose parameters are spread over processes it is an ordinary module with the whole parameters, a new one.

    Raises:
        TypeError: no module; one of TorchScript, whose code cannot be run with other weights; an ExportedProgram.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"{argument} must be a torch.nn.Module, got a TorchScript module ({_kind(model)}): pass the module that it "
            "was made from, or its state dict where no forward pass is needed"
        )
    if isinstance(model, torch.export.ExportedProgram):
        raise TypeError(
            f"{argument} must be a torch.nn.Module, got an ExportedProgram: pass the module that it was exported from, "
            "or its state dict where no forward pass is needed"
        )
    if not isinstance(model, nn.Module):
        fail_type(argument, "a torch.nn.Module", model)
    where = _kept_at(model)
    while where is not None:
        model = getattr(model, where)
        assert isinstance(model, nn.Module)
        where = _kept_at(model)
    return unsharded(model) if is_sharded(model) else model


def _kept_at(model: nn.Module) -> str | None:
    """The attribute of a wrapper that holds the module; None for what is no wrapper."""
    for kind in type(model).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _WRAPPERS:
            return _WRAPPERS[name]
    return None


def _kind(model: object) -> str:
    return str(getattr(model, "original_name", type(model).__name__))


def canonical(name: str) -> str:
    """A tensor's name without what wrappers put into it."""
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    while len(parts) > 1 and parts[0] == _FRONT:
        parts = parts[1:]
    return ".".join(parts)


def met(entries: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """Entries under the names that the other side has for them, where the two differ by what wrappers put in.

    Names without a counterpart stay as they are, and so do all where two of one side would become the same.
    """
    names = list(names)
    if entries.keys() == set(names):
        return dict(entries)
    theirs = {canonical(name): name for name in names}
    if len(theirs) < len(names) or len({canonical(name) for name in entries}) < len(entries):
        return dict(entries)
    found: dict[str, T] = {}
    for name, entry in entries.items():
        other = theirs.get(canonical(name))
        if other is None and name in _OWN:
            continue
        found[name if other is None or other in entries else other] = entry
    return found


def met_name(name: str, names: Collection[str]) -> str | None:
    """What the other side calls this tensor; None if it has none."""
    if name in names:
        return name
    wanted = canonical(name)
    return next((other for other in names if canonical(other) == wanted), None)
