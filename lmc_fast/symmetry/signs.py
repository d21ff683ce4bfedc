"""Signs of gated units: one of the two factors of a product may change its sign, if what reads the product does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from .._checks import check_type
from .._models import unwrapped
from .._modes import neutral
from .comparison import SymmetryError
from .folding import alike
from .groups import Axis, Group, Segment
from .spec import PermutationSpec
from .verify import verify_spec

__all__ = ["with_signs"]

# Of a group's name the name of its units' signs.
SIGN = "{}:sign"
# A segment of an axis: the parameter, the axis, which segment.
_Place = tuple[str, int, int]


@neutral
def with_signs(model: nn.Module, spec: PermutationSpec, example_inputs: Any) -> PermutationSpec:
    """A spec in which gated units change signs beside places: f(x) * y is -(f(x) * -y), and what reads it turns back.

    The units of a SwiGLU's hidden layer, down(silu(gate(x)) * up(x)), compute the same with the rows of `up` and the
    columns of `down` negated. Of two models that were trained apart one unit in two has the other sign. What is found
    is a group of one "signed" unit in every unit of the group that changes places, on those axes alone that take the
    sign; matching tells it with the place, from gains that are summed apart. These take a few times the time and the
    memory of gains of places, which matters from some thousands of units on.

    Looked at are groups that own nothing and that two linear maps at least write, with weights [outputs, inputs]. What
    takes the sign is found by trial: each of these with all that reads the units, on a copy with random weights.

    Args:
        model: left as it is.
        spec: bound to the model here; not changed.
        example_inputs: as of `verify_spec`.

    Returns:
        The spec with the groups that were found, verified; one without units to look at as it is, bound.

    Raises:
        TypeError: `model` is no module, or `spec` no spec.
        ValueError: the spec does not fit the model, or the model cannot be run.
        SymmetryError: the spec as it is does not keep the model's function.
    """
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    module = unwrapped("model", model)
    found = spec.bind(module)
    # Layers that differ in numbers alone are tried at once.
    patterns: dict[str, list[tuple[str, list[_Place]]]] = {}
    for group, writer, places in _candidates(found):
        patterns.setdefault(alike(f"{group} {writer}"), []).append((group, places))
    if patterns:
        verify_spec(module, found, example_inputs)
    for several in patterns.values():
        new = {group: places for group, places in several if SIGN.format(group) not in found.groups}
        if not new:
            continue
        tried = _signed(found, new)
        try:
            verify_spec(module, tried, example_inputs)
        except SymmetryError:
            continue
        found = tried
    return found


def _candidates(spec: PermutationSpec) -> Iterator[tuple[str, str, list[_Place]]]:
    """Groups with one of the maps that write them, and the places that would take a sign."""
    for name, group in spec.groups.items():
        if group.kind != "permutation" or spec.sizes[name] == 1 or spec.owned_by(name):
            continue
        writers: dict[tuple[str, int], list[_Place]] = {}
        readers: list[_Place] = []
        for place in _places(spec, name):
            parameter, dim, segment = place
            if dim:
                readers.append(place)
            else:
                # A bias goes with its weight.
                writers.setdefault((parameter.rpartition(".")[0], segment), []).append(place)
        if len(writers) > 1 and readers:
            for (module, segment), written in writers.items():
                yield name, f"{module} {segment}", [*written, *readers]


def _places(spec: PermutationSpec, group: str) -> Iterator[_Place]:
    """Where a group's units are single entries; none at all where they are more somewhere."""
    found: list[_Place] = []
    for parameter, axes in spec.axes.items():
        for dim, axis in enumerate(axes):
            for k, segment in enumerate(axis.segments):
                if segment.group == group and segment == Segment(group):
                    found.append((parameter, dim, k))
                elif group in Axis((segment,)).groups:
                    return
    yield from found


def _signed(spec: PermutationSpec, places: Mapping[str, Iterable[_Place]]) -> PermutationSpec:
    """The spec with signs of these groups at these places."""
    axes = {name: list(of) for name, of in spec.axes.items()}
    for group, of_group in places.items():
        for parameter, dim, k in of_group:
            segments = list(axes[parameter][dim].segments)
            segments[k] = Segment(group, inner=(Segment(SIGN.format(group)),))
            axes[parameter][dim] = Axis(tuple(segments), axes[parameter][dim].dims)
    changed = {name: tuple(of) for name, of in axes.items() if tuple(of) != spec.axes[name]}
    return spec.edit(changed, [Group(SIGN.format(group), 1, group, "signed") for group in places])
