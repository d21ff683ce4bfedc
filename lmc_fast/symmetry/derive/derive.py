"""The spec of any module that torch.export can trace, as a whole or in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..._checks import fail_type
from ..._models import tensors_of
from ..._modes import neutral
from ..._wrappers import unwrapped
from ..calls import calls_of
from ..editing import pinned
from ..folds import Centre, Fold
from ..spec import PermutationSpec
from ..verify import CannotVerifyError, SymmetryError, verify_spec
from .forms import form_of, has_weights
from .source import Source
from .terms import Pin
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
    rotations: bool = False,
) -> PermutationSpec:
    """Find what may be permuted in a module, from the graph of its forward pass.

    The graph is that of `torch.export`. Every dimension of every value is carried through it: what an operation lays
    over each other is one dimension; what it tells apart (an output, a vocabulary, a place in a sequence or a map)
    stays; units that stand beside others wherever they stand are owned by these. An operation that is not known pins
    what it touches. What a model hands on to its own next call (a cache, `encoder_last_hidden_state`) does not stay.
    ``spec.explain()`` tells what was found, and of the rest which operation holds it, or as what the model gives it.

    A model that goes by its own values (a loop that stops when it has come close, rows chosen by a mask) is run once,
    and traced on the way that it went, and with the other answer at each line that asks yes or no: what moves has to
    move on all ways. A note in the explanation names these lines. Where the whole cannot be traced (a branch on a
    Python number made of a value, numpy on the way), its parts are, each with what goes in and out of it pinned, and
    a note says which line is at fault.

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
        rotations: whether to find as well what may turn: axes on which nothing acts entry by entry, once the gains of
            norms are in the linear maps that read them. These are of kind "orthogonal", or "orthogonal_keeping_ones"
            where means count, as for LayerNorms; planes of rotary embeddings are "phases". The spec then has `folds`,
            and is one of models in pure form, which `fold_norms` makes.

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
    source = Source(module, form, state, rotations)
    spec = source.built(traced)
    why = next((each.why for each in traced if each.why), "")
    if strict and why and not spec.groups:
        raise ValueError(
            f"model must be one that torch.export can trace with these inputs, but {why}, and nothing may be permuted "
            "inside of what can be traced around it: have that line go another way, or take the spec with strict=False"
        )
    if not verify or is_empty:
        return spec
    return _tried(source, traced, _freest(source, traced, spec, examples), examples)


def _freest(
    source: Source, traced: Sequence[Traced], spec: PermutationSpec, examples: Sequence[Any]
) -> PermutationSpec:
    """Of the spec of all examples and those of each the one with most permutations that keeps the function on all.

    Where sizes coincide in one example, an operation may be read there in a way that pins more than it has to.
    """
    if len(traced) == 1:
        return spec
    alone = [source.built([each]) for each in traced]
    for other in sorted(alone, key=_freedom, reverse=True):
        if _freedom(other) <= _freedom(spec):
            break
        # Parameters that this example does not use are pinned by it; nothing is known of one that keeps none of them.
        try:
            for example in examples:
                verify_spec(source.module, other, example)
        except ValueError:
            continue
        return other
    return spec


def _freedom(spec: PermutationSpec) -> float:
    return spec.explain().log10_permutations


def _tried(source: Source, traced: Sequence[Traced], spec: PermutationSpec, examples: Sequence[Any]) -> PermutationSpec:
    """The spec without the groups, and the folds, that change what the module computes."""
    refused: dict[str, Pin] = {}
    notes: list[str] = []
    while spec.groups:
        try:
            for example in examples:
                verify_spec(source.module, spec, example)
        except CannotVerifyError as error:
            notes.append(f"the spec was not tried on the model: {' '.join(str(error).split())}")
            object.__setattr__(spec, "verified", None)
            break
        except SymmetryError as error:
            if error.is_fold and error.group not in refused:
                notes.append(f"norm {error.group!r} was to be folded, which changes the outputs: please report this")
                refused[error.group] = Pin("fold", "", f"folding {error.group!r} changes the outputs")
                folds = tuple(f for f in spec.folds if not (isinstance(f, Centre) and f.parameter == error.group))
                is_centre = len(folds) < len(spec.folds)
                again = replace(spec, folds=folds) if is_centre else source.built(traced, refused)
                spec = again.with_origin(spec.origin if is_centre else again.origin)
                continue
            notes.append(f"group {error.group!r} was found, and changes the outputs: please report this")
            spec = _without(spec, error.group)
        else:
            break
    if not notes:
        return spec
    assert spec.origin is not None
    return spec.with_origin(replace(spec.origin, notes=(*spec.origin.notes, *notes)))


def _without(spec: PermutationSpec, group: str) -> PermutationSpec:
    """The spec with a group pinned: of permutations with the whole root, and the folds that nothing needs any more."""
    origin = spec.origin
    is_turning = group in spec.groups and spec.groups[group].kind != "permutation"
    spec = pinned(spec, [group if is_turning else spec.root_of(group)])

    def is_needed(fold: Fold | Centre) -> bool:
        if isinstance(fold, Centre):
            return _turns_along(spec, fold.parameter, fold.axis)
        return any(_turns_along(spec, reader.parameter, reader.axis) for reader in fold.readers)

    return replace(spec, folds=tuple(fold for fold in spec.folds if is_needed(fold))).with_origin(origin)


def _turns_along(spec: PermutationSpec, parameter: str, dim: int) -> bool:
    """Whether anything turns along a dimension of a parameter."""
    of_dims = [axis for axis in spec.axes[parameter] for _ in range(axis.dims)]
    return any(spec.groups[name].kind.startswith("orthogonal") for name in of_dims[dim].groups)
