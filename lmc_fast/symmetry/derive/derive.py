"""The spec of any module that torch.export can trace, as a whole or in parts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..._checks import fail_type
from ..._models import tensors_of
from ..._modes import neutral
from ..._wrappers import unwrapped
from ..calls import calls_of
from ..explain import Origin, without
from ..groups import Axis
from ..spec import PermutationSpec
from ..verify import CannotVerifyError, SymmetryError, verify_spec
from .build import build
from .forms import Form, form_of, has_weights
from .graph import Walked, pin_unused, walk
from .terms import Pin, Terms
from .tracing import Traced, trace

__all__ = ["derive_spec"]


@neutral
def derive_spec(
    model: nn.Module,
    example_inputs: Any,
    *,
    more_inputs: Sequence[Any] = (),
    strict: bool = True,
    verify: bool = True,
) -> PermutationSpec:
    """Find what may be permuted in a module, from the graph of its forward pass.

    The graph is that of `torch.export`. Every dimension of every value is carried through it: what an operation lays
    over each other is one dimension; what it tells apart (an output, a vocabulary, a place in a sequence or a map)
    stays; units that stand beside others wherever they stand are owned by these. An operation that is not known pins
    what it touches. ``spec.explain()`` tells what was found, and of the rest which operation holds it.

    Where the whole cannot be traced (a branch on a value, numpy on the way), its parts are, each with what goes in and
    out of it pinned, and a note in the explanation says which line is at fault.

    Args:
        model: left as it is. One on the meta device or of fake tensors will do: nothing is computed, and nothing
            verified.
        example_inputs: what a forward pass takes: a tensor, a tuple or list of positional arguments, a mapping of
            keyword arguments (a BatchEncoding too), or `Inputs` where there are both. Numpy arrays are taken as
            tensors. Only shapes count, unless the spec is verified with them.
        more_inputs: further examples, each in one of these forms, where one does not show all that the model does (a
            text with and without an image, a mask that may be left out): what moves may move in all of them.
        strict: whether it is an error if weights are used by code that cannot be traced. If not they stay, and the
            explanation says so.
        verify: whether to try every group by running the model, as `verify_spec` does. One that fails is pinned, and
            told in the explanation as a fault of this package's.

    Returns:
        A spec that is bound to the model, `verified` where it was tried.

    Raises:
        TypeError: `model` is no module, or `more_inputs` no sequence of examples.
        ValueError: the model does not run on the inputs, or cannot be traced with them; the message names the line of
            the model's source, and what to do.
    """
    module = unwrapped("model", model)
    if isinstance(more_inputs, (Tensor, Mapping, str)) or not isinstance(more_inputs, Sequence):
        fail_type("more_inputs", "a list of example inputs", more_inputs)
    state = tensors_of("model", module, shapes_only=True)
    examples = [example_inputs, *more_inputs]
    is_empty = not has_weights(state)
    form = form_of(module, is_empty=is_empty)
    traced = [trace(form, calls_of(module, example), strict=strict) for example in examples]
    spec = _built(module, form, state, traced)
    why = next((each.why for each in traced if each.why), "")
    if strict and why and not spec.groups:
        raise ValueError(
            f"model must be one that torch.export can trace with these inputs, but {why}, and nothing may be permuted "
            "inside of what can be traced around it: have that line go another way, or take the spec with strict=False"
        )
    if not verify or is_empty:
        return spec
    return _tried(module, _freest(module, form, state, traced, spec, examples), examples)


def _built(module: nn.Module, form: Form, state: Mapping[str, Tensor], traced: Sequence[Traced]) -> PermutationSpec:
    """The spec of several calls of a model: what moves in the graphs of all of them."""
    identities = _identities(module, state)
    walked = Walked(Terms(), {})
    for piece in (piece for each in traced for piece in each.pieces):
        walk(piece.program, state, identities, walked, piece.prefix)
    pin_unused(walked)
    notes = list(dict.fromkeys(note for each in traced for note in each.notes))
    bare = {name for name, each in _named(form.module).items() if any(id(each) in found.bare for found in traced)}
    for name in bare & walked.parameters.keys():
        for term in walked.parameters[name]:
            walked.terms.pin(term, Pin("untraced", "", "is used by code that cannot be traced"))
    built = build(walked, list(state))
    axes = dict(built.spec.axes)
    pinned = {name: [[str(why) for why in each] for each in entries] for name, entries in built.pinned.items()}
    for name, tensor in state.items():
        if name not in axes and tensor.is_floating_point():
            axes[name] = tuple(Axis() for _ in tensor.shape)
            why = "untraced: is used by code that cannot be traced" if name in bare else "nothing: no operation uses it"
            pinned[name] = [[why] for _ in tensor.shape]
    notes += [f"{name} has no rule: what it touches stays ({count} times)" for name, count in walked.unknown.items()]
    spec = PermutationSpec(built.spec.groups, axes).bind(state)
    return spec.with_origin(Origin(pinned, tuple(notes)))


def _freest(
    module: nn.Module,
    form: Form,
    state: Mapping[str, Tensor],
    traced: Sequence[Traced],
    spec: PermutationSpec,
    examples: Sequence[Any],
) -> PermutationSpec:
    """Of the spec of all examples and those of each the one with most permutations that keeps the function on all.

    Where sizes coincide in one example, an operation may be read there in a way that pins more than it has to.
    """
    if len(traced) == 1:
        return spec
    alone = [_built(module, form, state, [each]) for each in traced]
    for other in sorted(alone, key=_freedom, reverse=True):
        if _freedom(other) <= _freedom(spec):
            break
        # Parameters that this example does not use are pinned by it; nothing is known of one that keeps none of them.
        try:
            for example in examples:
                verify_spec(module, other, example)
        except ValueError:
            continue
        return other
    return spec


def _freedom(spec: PermutationSpec) -> float:
    return spec.explain().log10_permutations


def _tried(module: nn.Module, spec: PermutationSpec, examples: Sequence[Any]) -> PermutationSpec:
    """The spec without the groups that change what the module computes."""
    while spec.groups:
        try:
            for example in examples:
                verify_spec(module, spec, example)
        except CannotVerifyError as error:
            assert spec.origin is not None
            note = f"the spec was not tried on the model: {' '.join(str(error).split())}"
            object.__setattr__(spec, "verified", None)
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


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _identities(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Hashable]:
    """Equal for names of one tensor."""
    found: dict[str, Hashable] = {name: name for name in state}
    for named in (module.named_parameters, module.named_buffers):
        found |= {name: id(tensor) for name, tensor in named(remove_duplicate=False) if name in state}
    return found
