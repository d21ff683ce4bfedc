"""Activation matching: permutations, and rotations, that bring one model's activations closest to another's.

For every group the cross-covariance or the correlation of the two models' units over data, and one linear assignment
problem over it (Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, section 3.1; Li et al., "Convergent
Learning", ICLR 2016): groups do not depend on each other, so that there are no sweeps. Where units turn, the cross
moment's polar factor takes the assignment's place (Schoenemann, "A generalized solution of the orthogonal Procrustes
problem", 1966), and that of a head's maps tells which head is which.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._backend import check_device
from .._batches import check_batches
from .._calls import Forward, check_forward
from .._checks import check_type
from .._models import check_numbers, check_same_tensors, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress
from ..symmetry import Permutations, PermutationSpec, Transforms, check_pure
from ..symmetry.transforms import Choice, choice_for
from ..symmetry.views import Units, groups_of
from .activations.crossing import activation_moments, sizes_of
from .activations.labels import AxisKey
from .engine.descent import CoordinateDescent
from .engine.elements import best_elements, best_elements_together
from .engine.measures import distance_between, objective_of
from .engine.nested import best_choices, best_together
from .engine.seen import seen
from .engine.trees import Factor
from .engine.turning import TurningDescent, count_moved
from .given import spec_of
from .results.matching import Matching, Sweep
from .verification import ensure_verified

__all__ = ["activation_matching"]

STATISTICS = ("correlation", "covariance")
SIDES = ("inputs", "outputs")
UNSEEN = ("raise", "keep", "weights")
# Over groups that are placed by their weights.
MAX_SWEEPS = 100

GainT = TypeVar("GainT")


@neutral
def activation_matching(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    spec: PermutationSpec | None = None,
    *,
    statistic: str = "correlation",
    watch: str = "inputs",
    unseen: str | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> Matching:
    """Find what of model b's units maximises the agreement of their activations with model a's.

    One pass over the batches, in eval mode and without gradients; other threads may do the same with these models.
    What is kept is one float64 matrix a group, and the watched activations of one batch of model a, however many
    batches there are. Groups that another one owns are matched inside every pair of owners, exactly; groups that lie
    inside each other without owning each other in turn, to a fixed point. Several places of one group are taken as one
    long record of its units, each place (and each entry that a unit owns there) centred by its own mean. Positions of a
    convolution's maps and tokens are samples as examples are. A unit that does not vary correlates with none; two that
    no example wakes behind the nonlinearity are compared in front of it. Units that one and the same example alone
    wakes correlate perfectly: with few examples some are interchangeable.

    Where groups of other kinds take part: what may turn has no units to be compared one by one, and its gain is the
    cross moment of all of them over every place. It is not centred, for a mean is a direction as any other, and as a
    rule the one that two models have most in common. Gains of groups that a head owns are taken over the mean square
    of all that may mix there, so that one head counts as much as another, and what the heads own is best for itself
    inside every pair of them. In pure form the products that read a residual stream see it normalised; queries and
    keys are seen where they are made. Directions of which the data show nothing beyond rounding are turned as little
    as may be: have more samples than units.

    Args:
        model_a, model_b: modules of one architecture. Weights, buffers, training modes and hooks stay as they are.
        batches: inputs, or (inputs, targets) pairs, the same for both models; a list or a DataLoader. `_batches`
            tells what else a batch may be.
        spec: what may be permuted or turned; bound to the models here. None: what `derive_spec` finds in model a, with
            `example_inputs`, or else the inputs of the first batch. With folds, both models are in pure form.
        statistic: "correlation", or "covariance", to which units (of those that turn: heads) that vary more count more.
        watch: "inputs", what the products that read the units get (behind the nonlinearity, as in the papers), or
            "outputs", what the operations that make them give (in front of it; one that goes straight into a
            BatchNorm: that of the BatchNorm). Groups that do not show up there are watched on the other side.
        unseen: what to do with a group whose units show up nowhere: "raise", "keep" it in place, or "weights" to place
            it by its weights, as `weight_matching` does, with all others where they were found. None: "raise" for a
            spec of permutations, "weights" where groups of other kinds take part. Looked at are all products,
            convolutions, norms, embeddings and elementwise operations with a parameter, be it a layer's or bare, whole,
            cut out of another or computed from others (parametrised, pruned, cast). A place counts if units that are
            moved show the same there, moved alike, which is tried on the first batch.
        forward: (model, batch) -> outputs, where a batch is not to be read by that rule.
        device: where products are made and sums are kept; None: where the activations are. Assignments are solved
            on the CPU, and polar factors where the sums are.
        progress: True for a bar, a function (description, done, total), or a `Logger`.
        example_inputs: what the spec is derived from, where it is left out and the first batch will not do.

    Returns:
        A `Matching`, whose objective and distances are those of the weights, as of weight matching; the history has
        one entry. ``.apply(model_b)`` gives the moved model. The spec is verified on model a and a few examples
        of the first batch, unless it was before (`Matching.verified`).

    Raises:
        TypeError: a model that is no module, `batches` that are a batch themselves, or another argument of the
            wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, norms that are not folded, no batches,
            activations that are not finite or differ in shape between the models, a group that shows up nowhere (the
            message says why), or an unknown option.
        SymmetryError: the spec does not keep model a's function.
    """
    began = time.perf_counter()
    for argument, model in (("model_a", model_a), ("model_b", model_b)):
        check_type(argument, model, nn.Module, "a torch.nn.Module (activations cannot be had from a state dict)")
    model_a, model_b = unwrapped("model_a", model_a), unwrapped("model_b", model_b)
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    tensors_b = check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    batches = check_batches("batches", batches)
    check_forward(forward)
    _check_choice("statistic", statistic, STATISTICS)
    _check_choice("watch", watch, SIDES)
    if unseen is not None:
        _check_choice("unseen", unseen, UNSEEN)
    device = check_device("device", device)
    given = spec_of(model_a, spec, example_inputs=example_inputs, batches=batches, forward=forward)
    spec = given.bind(model_a)
    check_numbers("model_a", tensors_a, spec.axes)
    check_numbers("model_b", tensors_b, spec.axes)
    check_pure("model_a", tensors_a, spec)
    check_pure("model_b", tensors_b, spec)
    verified = ensure_verified("activation_matching", model_a, spec, batches=batches, forward=forward)

    if unseen is None:
        unseen = "raise" if spec.only_permutes else "weights"
    missed: dict[AxisKey, str] = {}
    gains = activation_moments(model_a, model_b, batches, spec, statistic, watch, device, progress, forward, missed)
    unknown = _undetermined(spec, gains)
    if unknown and unseen == "raise":
        raise ValueError(_unseen_message(spec, unknown[0], missed))
    found: Mapping[str, Any] = _placed(spec, gains, unknown)
    view = seen([model_a, model_b], [tensors_a, tensors_b], spec)
    tensors_a, tensors_b = view.tensors
    weights = dict.fromkeys(view.names, 1.0)
    if unknown and unseen == "weights":
        frozen = set(spec.groups).difference(unknown)
        found = _by_weights(view.spec, tensors_a, tensors_b, weights, choice_for(view.spec, found), frozen, device)
    choice, moved = choice_for(spec, found), choice_for(view.spec, found)
    direct = partial(distance_between, tensors_a, tensors_b, weights)
    objective = objective_of(tensors_a, tensors_b, weights, moved)
    seconds = time.perf_counter() - began
    return Matching(
        choice=choice,
        objective=objective,
        l2_before=direct(choice_for(view.spec)),
        l2_after=direct(moved),
        converged=True,
        history=(Sweep(objective, _count(choice), len(spec.roots), seconds),),
        seconds=seconds,
        method=f"activation matching, {statistic}",
        **verified._asdict(),
    )


def _placed(spec: PermutationSpec, gains: Mapping[Units, Tensor], unknown: Collection[str]) -> dict[str, Any]:
    """The best of every group by its gains; groups of which nothing is known stay."""
    if spec.only_permutes:
        return _permuted(spec, gains, unknown)
    elements = Transforms.identity(spec).elements
    for roots in _seen_together(spec, gains):
        own = _of_roots(spec, gains, roots)
        if own:
            where = next(iter(own.values())).device
            current = {name: element.to(where) for name, element in elements.items() if spec.root_of(name) in roots}
            factors = {groups_of(spec, units): _factor(spec, units, gain) for units, gain in own.items()}
            if len(roots) == 1:
                found, _ = best_elements(spec, roots[0], factors, current, unknown)
            else:
                found, _ = best_elements_together(spec, roots, factors, current, unknown)
            elements |= {name: element.cpu() for name, element in found.items()}
    return elements


def _permuted(spec: PermutationSpec, gains: Mapping[Units, Tensor], unknown: Collection[str]) -> dict[str, Any]:
    """As `_placed`, of permutations alone."""
    matrices: dict[Units, NDArray[np.float64]] = {units: gain.cpu().numpy() for units, gain in gains.items()}
    choices = Permutations.identity(spec).choices
    for roots in _seen_together(spec, gains):
        if len(roots) == 1:
            choices.update(best_choices(spec, roots[0], matrices, choices, frozen=unknown)[0])
        else:
            choices.update(best_together(spec, roots, _of_roots(spec, matrices, roots), choices, frozen=unknown)[0])
    return choices


def _of_roots(spec: PermutationSpec, gains: Mapping[Units, GainT], roots: Collection[str]) -> dict[Units, GainT]:
    """The gains of root groups and of all that they own."""
    return {units: gain for units, gain in gains.items() if spec.root_of(groups_of(spec, units)[0]) in roots}


def _factor(spec: PermutationSpec, units: Units, gain: Tensor) -> Factor:
    """A gain as the engine takes it, of one pair."""
    sizes = sizes_of(spec, units)
    return Factor(groups_of(spec, units), gain.reshape(1, *sizes, *sizes))


def _by_weights(
    spec: PermutationSpec,
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    weights: Mapping[str, float],
    start: Choice,
    frozen: Collection[str],
    device: torch.device | None,
) -> Mapping[str, Any]:
    """The groups that are not frozen where weight matching puts them."""
    if isinstance(start, Permutations):
        descent = CoordinateDescent(spec, tensors_a, tensors_b, weights, start, frozen, device)
        descent.settle(True, MAX_SWEEPS, False)
        return descent.choices
    turning = TurningDescent(spec, tensors_a, tensors_b, weights, start, frozen, device)
    turning.settle(None, MAX_SWEEPS, False)
    return turning.elements


def _count(choice: Choice) -> int:
    """How many units are not as they were."""
    if isinstance(choice, Permutations):
        return choice.moved
    still = Transforms.identity(choice.spec)
    return sum(count_moved(still[name], element, choice.spec.shape(name)) for name, element in choice.items())


def _seen_together(spec: PermutationSpec, gains: Collection[Units]) -> list[list[str]]:
    """All root groups, those together that show up inside each other."""
    parts = [[root] for root in spec.roots]
    for units in gains:
        of = {spec.root_of(name) for name in groups_of(spec, units)}
        joined = [part for part in parts if not of.isdisjoint(part)]
        for part in joined[1:]:
            joined[0].extend(part)
            parts.remove(part)
    return parts


def _undetermined(spec: PermutationSpec, gains: Collection[Units]) -> list[str]:
    """Groups with no gain of their own nor of any group that they own; a single unit has no other place."""
    seen = {name for units in gains for name in groups_of(spec, units)}
    return [name for name in spec.groups if name not in seen and spec.sizes[name] > 1]


def _unseen_message(spec: PermutationSpec, group: str, missed: Mapping[AxisKey, str]) -> str:
    """Why a group cannot be matched by what the models show."""
    axes = {
        (name, position): axis
        for name, of_parameter in spec.axes.items()
        for position, axis in enumerate(of_parameter)
        if group in axis.groups
    }
    where = ", ".join(dict.fromkeys(name for name, _ in axes))
    reasons = list(dict.fromkeys(missed[key] for key in axes if key in missed))
    why = "; ".join(reasons) if reasons else "no operation that is known uses these with what depends on the input"
    return (
        f"no operation shows the units of group {group!r} (on {where}), so that its activations cannot be had: {why}. "
        "unseen='weights' places such groups by their weights, and unseen='keep' leaves them in place"
    )


def _check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {value!r}")
