"""The spec of any module that torch.export can trace."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from ..._copies import copied
from ..._models import tensors_of
from ..._modes import neutral
from ..._wrappers import unwrapped
from ..explain import Origin, without
from ..groups import Axis
from ..spec import PermutationSpec
from ..verify import CannotVerifyError, SymmetryError, verify_spec
from .build import build
from .graph import export, walk

__all__ = ["derive_spec"]

_UNTRACED = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, NotImplementedError)


@neutral
def derive_spec(model: nn.Module, example_inputs: Any, *, verify: bool = True) -> PermutationSpec:
    """Find what may be permuted in a module, from the graph of its forward pass.

    The graph is that of `torch.export`. Every dimension of every value is carried through it: what an operation lays
    over each other is one dimension; what it tells apart (an output, a vocabulary, a place in a sequence or a map)
    stays; units that stand beside others wherever they stand are owned by these. An operation that is not known pins
    what it touches. ``spec.explain()`` tells what was found, and of the rest which operation holds it.

    Args:
        model: left as it is. One on the meta device will do: nothing is computed, and nothing verified.
        example_inputs: what a forward pass takes: a tensor, a tuple or list of positional arguments, or a mapping of
            keyword arguments. Only shapes count, unless the spec is verified with them.
        verify: whether to try every group by running the model, as `verify_spec` does. One that fails is pinned, and
            told in the explanation as a fault of this package's.

    Returns:
        A spec that is bound to the model, `verified` where it was tried.

    Raises:
        TypeError: `model` is no module.
        ValueError: torch.export cannot trace the model with these inputs; the message says where.
    """
    module = unwrapped("model", model)
    state = tensors_of("model", module, shapes_only=True)
    args, kwargs = _call(module, example_inputs)
    is_meta = any(tensor.device.type == "meta" for tensor in state.values())
    if is_meta:
        args, kwargs = _on_meta(args), _on_meta(kwargs)
    try:
        program = export(copied(module).eval() if not is_meta else module.eval(), args, kwargs)
    except _UNTRACED as error:
        raise ValueError(
            f"model must be one that torch.export can trace with these inputs, but: {_first_lines(error)}"
        ) from error
    walked = walk(program, state, _identities(module, state))
    built = build(walked, list(state))
    axes = dict(built.spec.axes)
    pinned = {name: [[str(why) for why in each] for each in entries] for name, entries in built.pinned.items()}
    for name, tensor in state.items():
        if name not in axes and tensor.is_floating_point():
            axes[name] = tuple(Axis() for _ in tensor.shape)
            pinned[name] = [["nothing: no operation uses it"] for _ in tensor.shape]
    notes = tuple(
        f"{name} has no rule: what it touches stays ({count} times)" for name, count in walked.unknown.items()
    )
    spec = PermutationSpec(built.spec.groups, axes).bind(state)
    spec = spec.with_origin(Origin(pinned, notes))
    return _tried(module, spec, example_inputs) if verify and not is_meta else spec


def _tried(module: nn.Module, spec: PermutationSpec, example_inputs: Any) -> PermutationSpec:
    """The spec without the groups that change what the module computes."""
    while spec.groups:
        try:
            verify_spec(module, spec, example_inputs)
        except CannotVerifyError as error:
            assert spec.origin is not None
            note = f"the spec was not tried on the model: {' '.join(str(error).split())}"
            return spec.with_origin(Origin(spec.origin.pinned, (*spec.origin.notes, note)))
        except SymmetryError as error:
            origin = spec.origin
            assert origin is not None
            note = f"group {error.group!r} was found, and changes the outputs: please report this"
            root = spec.root_of(error.group)
            axes = without(spec, root)
            kept = {name: group for name, group in spec.groups.items() if spec.root_of(name) != root}
            spec = PermutationSpec(kept, axes).with_origin(Origin(origin.pinned, (*origin.notes, note)))
        else:
            return spec
    return spec


def _call(module: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward pass."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping) or hasattr(example_inputs, "keys"):
        kwargs = {str(name): example_inputs[name] for name in example_inputs}
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    takes = inspect.signature(module.forward).parameters
    if "use_cache" in takes and "use_cache" not in kwargs and len(args) <= list(takes).index("use_cache"):
        # A cache of keys and values is an output of a kind that cannot be traced.
        kwargs["use_cache"] = False
    return args, kwargs


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {name: _on_meta(entry) for name, entry in value.items()}
    return tuple(map(_on_meta, value)) if isinstance(value, tuple) else value


def _identities(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Hashable]:
    """Equal for names of one tensor."""
    found: dict[str, Hashable] = {name: name for name in state}
    for named in (module.named_parameters, module.named_buffers):
        found |= {name: id(tensor) for name, tensor in named(remove_duplicate=False) if name in state}
    return found


def _first_lines(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines()[:3] if line.strip())
    return f"{type(error).__name__}: {text[:400]}"
