"""REPAIR: the statistics of hidden units put right in a merged model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._batches import Batch, check_batches
from .._calls import Calls, Forward, check_forward, in_eval
from .._checks import check_floats, fail_type
from .._models import check_same_tensors, copied, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from ..matching import ManyMatching
from ..matching.activations.moments import Moments
from ..matching.activations.watching import Place, entries_first, places_of, places_used, run, watching
from ..matching.given import spec_of
from ..matching.results.matching import Match, choice_of
from ..symmetry import PermutationSpec
from ..symmetry.placing import laid, placed
from ..symmetry.transforms import Choice
from .batchnorm import reestimate_in_place

__all__ = ["repair"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

KINDS = ("repair", "reshift", "rescale")
# Layers whose outputs are put right; their weights have the outputs on axis 0.
REPAIRED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, _BatchNorm)


@neutral
def repair(
    merged: ModuleT,
    models: Sequence[nn.Module],
    batches: Iterable[Any],
    matches: Sequence[Match] | ManyMatching | None = None,
    *,
    kind: str = "repair",
    weights: Sequence[float] | None = None,
    spec: PermutationSpec | None = None,
    forward: Forward | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> ModuleT:
    """A copy of `merged` whose hidden units have the mean and the deviation of its parents' units, interpolated.

    REPAIR (Jordan, Sedghi, Saukh, Entezari, Neyshabur, ICLR 2023, section 4): the mean of every hidden unit becomes
    sum_m weights[m] * mean_m and its standard deviation sum_m weights[m] * deviation_m, measured in front of the
    nonlinearity. The correction is folded into the layers' weights and biases. Its two halves can be had alone: RESHIFT
    puts the means right and leaves the deviations, RESCALE the other way round.

    Put right are Linear, convolutions and BatchNorm whose outputs are hidden units by the spec, one after another in
    the order of the run, since each changes what follows: one pass over the batches for each model, then one for
    every layer, up to that layer. A layer that goes straight into a BatchNorm is left to that, and BatchNorm
    statistics are re-estimated first; LayerNorm and its kin, which normalise by themselves, stay as they are. A layer
    without a bias is given one. A unit that does not vary is shifted, not scaled.

    Layers are seen where they are called as modules. What else computes hidden units stays as it was merged: functions
    of bare parameters or of a layer's weight, a layer whose ``forward`` is called by itself, and layers of other
    classes, such as the Conv1D of GPT-2, stacked experts, and the projections inside of `torch.nn.MultiheadAttention`.

    Args:
        merged: what `interpolate` or `merge` gave; left as it is.
        models: the models that it was merged from; left as they are, and run in eval mode.
        batches: inputs, or (inputs, targets) pairs; a list or a DataLoader that gives the same each time. `_batches`
            tells what else a batch may be.
        matches: as for `merge`: for each model the `Matching`, `Permutations` or `Transforms` that lays it over the
            others, None for one that stays as it is; or a `ManyMatching`; None: all stay.
        kind: "repair": x becomes mean' + (x - mean) deviation' / deviation, where the primed ones are the parents';
            "reshift": mean' + (x - mean); "rescale": mean + (x - mean) deviation' / deviation.
        weights: those of the merge, summing to 1; None: equal ones. For ``interpolate(a, b, lam)``:
            ``[1 - lam, lam]``.
        spec: tells which outputs are hidden units; None: the spec of the first match; without any what `derive_spec`
            finds in `merged`, with `example_inputs`, or else the inputs of the first batch.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`.
        progress: True for a bar, or a function (description, done, total).
        example_inputs: what the spec is derived from, where there is none and the first batch will not do.

    Returns:
        A new module of the same classes, in the training mode that `merged` is in.

    Raises:
        TypeError: a model that is no module, `batches` that are a batch themselves, or another argument of the wrong
            kind.
        ValueError: no models, models of different shapes, lists of different lengths, weights that do not sum to 1,
            an unknown `kind`, no spec, no batches, activations that are not finite, no layer to put right, or one whose
            weight is parametrised or shared with another module.
    """
    merged = cast(ModuleT, unwrapped("merged", merged))
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    given = _check_matches(models, matches)
    models = [unwrapped(f"models[{i}]", model) for i, model in enumerate(models)]
    shares = _check_weights(weights, len(models))
    batches = check_batches("batches", batches)
    check_forward(forward)
    tensors = tensors_of("merged", merged)
    for i, model in enumerate(models):
        check_same_tensors(f"models[{i}]", tensors_of(f"models[{i}]", model), "merged", tensors)
    if spec is None:
        spec = next((choice.spec for choice in given if choice is not None), None)
    chosen = spec_of(merged, spec, argument="merged", example_inputs=example_inputs, batches=batches, forward=forward)
    spec = chosen.bind(tensors)
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches must hold one batch at least, got none")

    module = copied(merged)
    calls = Calls(module, forward)
    places = _places(module, spec, calls, calls.read_one("batches", 0, first))
    total = len(models) + len(places)
    with in_eval(module), tracking(progress, "repair", total) as advance:
        reestimate_in_place(module, batches, forward=forward)
        means = deviations = torch.zeros(())
        targets = dict.fromkeys(places, (means, deviations))
        for model, choice, share in zip(models, given, shares, strict=True):
            laid = model if choice is None else choice.apply(model)
            moments = _measure(laid, Calls(laid, forward), places, batches)
            for place, (means, deviations) in targets.items():
                of = moments[place]
                targets[place] = (means + share * of.mean.cpu(), deviations + share * of.deviation.cpu())
            advance("")
        for place, count in places.items():
            now = _measure(module, calls, {place: count}, batches)[place]
            means, deviations = targets[place]
            if kind == "reshift":
                deviations = now.deviation.cpu()
            elif kind == "rescale":
                means = now.mean.cpu()
            _fold(module, place, spec, now, means, deviations)
            advance(place.module)
    return module


class _SeenEnough(Exception):
    """Ends a forward pass behind the last layer that was to be seen."""


def _places(module: nn.Module, spec: PermutationSpec, calls: Calls, batch: Batch) -> dict[Place, int]:
    """The outputs to put right, in the order of the run, with how often each layer runs in one pass."""
    owners: dict[int, list[str]] = {}
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    wanted = []
    for place in places_of(module, spec):
        layer = module.get_submodule(place.module)
        if place.side == "input" or not isinstance(layer, REPAIRED) or layer.weight is None:
            continue
        # Of a layer that has none it is there as None.
        derived = next((name for name in ("weight", "bias") if name not in layer._parameters), None)
        if derived is not None:
            raise ValueError(
                f"merged must have layers with weights of their own, but the {derived} of {place.module!r} is "
                "parametrised: remove that"
            )
        for parameter in layer.parameters(recurse=False):
            if len(owners[id(parameter)]) > 1:
                raise ValueError(
                    f"merged must have layers with tensors of their own, but {owners[id(parameter)]} share one: "
                    "one cannot be put right without the other"
                )
        wanted.append(place)
    with in_eval(module):
        used = places_used(module, wanted, calls, batch)
    if not used:
        raise ValueError("merged must have Linear, convolution or BatchNorm layers of hidden units, got none that runs")
    return used


def _measure(model: nn.Module, calls: Calls, places: dict[Place, int], batches: Iterable[Any]) -> dict[Place, Moments]:
    """Mean and deviation of the entries of every place, over all batches."""
    moments = {place: Moments() for place in places}
    left = sum(places.values())

    def see(place: Place, shown: Tensor) -> None:
        nonlocal left
        moments[place].add(entries_first(shown, place.dim))
        left -= 1
        if left == 0:
            raise _SeenEnough

    with in_eval(model), watching(model, places, see):
        for batch in calls.read("batches", batches):
            left = sum(places.values())
            with contextlib.suppress(_SeenEnough):
                run(model, calls, batch)
    for place, of in moments.items():
        if of.count == 0:
            raise ValueError(f"models must run as merged does, but one of them does not call {place.module!r}")
        if not bool(torch.isfinite(of.mean).all()):
            raise ValueError(f"activations must be finite, but the output of {place.module!r} is not")
    return moments


def _fold(
    module: nn.Module, place: Place, spec: PermutationSpec, now: Moments, means: Tensor, deviations: Tensor
) -> None:
    """Scale and shift the hidden units of a layer's output to these means and deviations."""
    layer = module.get_submodule(place.module)
    mean, deviation = now.mean.cpu(), now.deviation.cpu()
    # Weights outside 0..1 extrapolate, and could ask for less than no spread.
    scale = torch.where(deviation > 0, deviations.clamp_min(0) / deviation, 1.0)
    shift = means - scale * mean
    hidden = _hidden_entries(spec, place)
    scale, shift = torch.where(hidden, scale, 1.0), torch.where(hidden, shift, 0.0)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    scale, shift = scale.to(weight.device), shift.to(weight.device)
    with torch.no_grad():
        weight.copy_(weight.double() * scale.reshape([-1] + [1] * (weight.ndim - 1)))
        if isinstance(bias, nn.Parameter):
            bias.copy_(bias.double() * scale + shift)
        else:
            layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _hidden_entries(spec: PermutationSpec, place: Place) -> Tensor:
    """Which entries of the place belong to a group: bool [entries]."""
    runs = placed(spec.axes[place.parameter][place.axis].segments, spec.sizes)
    return laid([torch.full((run.length,), run.segment.group is not None) for run in runs], runs, 0)


def _check_matches(models: Any, matches: Any) -> list[Choice | None]:
    """For each model how its units are moved."""
    if isinstance(matches, ManyMatching):
        matches = matches.permutations
    for argument, value in (("models", models), ("matches", matches)):
        if value is not None and (isinstance(value, (str, nn.Module)) or not isinstance(value, Sequence)):
            fail_type(argument, "a sequence with one entry for each model", value)
    if not models:
        raise ValueError("models must hold one model at least, got none")
    if matches is None:
        return [None] * len(models)
    if len(matches) != len(models):
        raise ValueError(f"matches must have one entry for each of the {len(models)} models, got {len(matches)}")
    return [choice_of(f"matches[{i}]", match) for i, match in enumerate(matches)]


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    shares = [1.0 / count] * count if weights is None else check_floats("weights", weights)
    if len(shares) != count:
        raise ValueError(f"weights must have one entry for each of the {count} models, got {len(shares)}")
    if abs(sum(shares) - 1.0) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {sum(shares)}")
    return shares
