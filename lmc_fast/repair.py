"""Statistics that a merged model needs anew: BatchNorm re-estimation, and REPAIR for every hidden unit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Sequence, Sized
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._checks import check_floats, check_type, fail_type
from ._models import check_batches, check_same_tensors, modes_kept, tensors_of
from ._progress import Progress, tracking
from .matching import ManyMatching, Matching
from .matching.activations.moments import Moments
from .matching.activations.watching import Place, entries_first, places_of, places_used, run, watching
from .symmetry import Permutations, PermutationSpec
from .symmetry.groups import axis_size

__all__ = ["has_batchnorm", "reestimate_batchnorm", "reestimate_in_place", "repair"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model holds a BatchNorm that keeps running statistics."""
    return any(True for _ in _tracked(model))


def reestimate_batchnorm(model: ModuleT, batches: Iterable[Any], *, progress: Progress = False) -> ModuleT:
    """A copy of `model` whose BatchNorm statistics are those of `batches`.

    The mean of a merged model's activations is not the mean of its parents' means, and their variance is smaller
    (Jordan et al., "REPAIR", ICLR 2023, section 3): running statistics have to be measured again. They are averaged
    over the batches with equal weights (momentum None); everything else runs in eval mode, without gradients.

    Args:
        model: a module; left as it is. One without BatchNorm comes back as a plain copy.
        batches: inputs, or (inputs, targets) pairs, of one batch each; one batch at least.

    Returns:
        A new module, in the training mode that `model` is in.

    Raises:
        TypeError: `model` is no module, or `batches` is a batch itself.
        ValueError: no batches.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    batches = check_batches("batches", batches)
    # For what they refuse, before anything is copied.
    tensors_of("model", model)
    module = copy.deepcopy(model)
    module.zero_grad(set_to_none=True)
    reestimate_in_place(module, batches, progress=progress)
    return module


def reestimate_in_place(module: nn.Module, batches: Iterable[Any], *, progress: Progress = False) -> None:
    """As `reestimate_batchnorm`, on the module itself."""
    layers = list(_tracked(module))
    if not layers:
        return
    momenta = {layer: layer.momentum for layer in layers}
    seen = 0
    total = len(batches) if isinstance(batches, Sized) else 0
    with modes_kept(module), tracking(progress, "BatchNorm statistics", total) as advance:
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            # Not layer.train(): layers that are kept frozen override it, and these are asked for as well.
            layer.training = True
        try:
            for batch in batches:
                run(module, batch)
                seen += 1
                advance("")
        finally:
            for layer, momentum in momenta.items():
                layer.momentum = momentum
    if seen == 0:
        raise ValueError("batches must hold one batch at least, got none")


def _tracked(module: nn.Module) -> Iterable[_BatchNorm]:
    return (m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)


Match = Matching | Permutations | None

# Layers whose outputs are put right; their weights have the outputs on axis 0.
REPAIRED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, _BatchNorm)


def repair(
    merged: ModuleT,
    models: Sequence[nn.Module],
    batches: Iterable[Any],
    matches: Sequence[Match] | ManyMatching | None = None,
    *,
    weights: Sequence[float] | None = None,
    spec: PermutationSpec | None = None,
    progress: Progress = False,
) -> ModuleT:
    """A copy of `merged` whose hidden units have the mean and the deviation of its parents' units, interpolated.

    REPAIR (Jordan, Sedghi, Saukh, Entezari, Neyshabur, ICLR 2023, section 4): the mean of every hidden unit becomes
    sum_m weights[m] * mean_m and its standard deviation sum_m weights[m] * deviation_m, measured in front of the
    nonlinearity. The correction is folded into the layers' weights and biases.

    Put right are Linear, convolutions and BatchNorm whose outputs are hidden units by the spec, one after another in
    the order of the run, since each changes what follows: one pass over the batches for each model, then one for
    every layer, up to that layer. A layer that goes straight into a BatchNorm is left to that, and BatchNorm
    statistics are re-estimated first; LayerNorm and its kin, which normalise by themselves, stay as they are. A layer
    without a bias is given one. A unit that does not vary is shifted, not scaled.

    Args:
        merged: what `interpolate` or `merge` gave; left as it is.
        models: the models that it was merged from; left as they are, and run in eval mode.
        batches: inputs, or (inputs, targets) pairs; a list or a DataLoader that gives the same each time.
        matches: as for `merge`: for each model the `Matching` or `Permutations` that lays it over the others, None for
            one that stays as it is; or a `ManyMatching`; None: all stay.
        weights: those of the merge, summing to 1; None: equal ones. For ``interpolate(a, b, lam)``:
            ``[1 - lam, lam]``.
        spec: tells which outputs are hidden units; None: the spec of the first match.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A new module of the same classes, in the training mode that `merged` is in.

    Raises:
        TypeError: a model that is no module, `batches` that are a batch themselves, or another argument of the wrong
            kind.
        ValueError: no models, models of different shapes, lists of different lengths, weights that do not sum to 1,
            no spec, no batches, activations that are not finite, no layer to put right, or one whose weight is
            parametrised or shared with another module.
    """
    check_type("merged", merged, nn.Module, "a torch.nn.Module")
    given = _check_matches(models, matches)
    shares = _check_weights(weights, len(models))
    batches = check_batches("batches", batches)
    tensors = tensors_of("merged", merged)
    for i, model in enumerate(models):
        check_type(f"models[{i}]", model, nn.Module, "a torch.nn.Module")
        check_same_tensors(f"models[{i}]", tensors_of(f"models[{i}]", model), "merged", tensors)
    if spec is None:
        spec = next((permutations.spec for permutations in given if permutations is not None), None)
        if spec is None:
            raise ValueError("spec must be given where no match brings one: it tells which units are hidden")
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    spec = spec.bind(tensors)
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches must hold one batch at least, got none")

    module = copy.deepcopy(merged)
    module.zero_grad(set_to_none=True)
    places = _places(module, spec, first)
    total = len(models) + len(places)
    with modes_kept(module), tracking(progress, "repair", total) as advance:
        module.eval()
        reestimate_in_place(module, batches)
        means = deviations = torch.zeros(())
        targets = dict.fromkeys(places, (means, deviations))
        for model, permutations, share in zip(models, given, shares, strict=True):
            moments = _measure(model if permutations is None else permutations.apply(model), places, batches)
            for place, (means, deviations) in targets.items():
                of = moments[place]
                targets[place] = (means + share * of.mean.cpu(), deviations + share * of.deviation.cpu())
            advance("")
        for place, calls in places.items():
            _fold(module, place, spec, _measure(module, {place: calls}, batches)[place], *targets[place])
            advance(place.module)
    return module


class _SeenEnough(Exception):
    """Ends a forward pass behind the last layer that was to be seen."""


def _places(module: nn.Module, spec: PermutationSpec, batch: Any) -> dict[Place, int]:
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
        if "weight" not in layer._parameters:
            raise ValueError(
                f"layer {place.module!r} must have a weight of its own, but it is parametrised: remove that"
            )
        for parameter in layer.parameters(recurse=False):
            if len(owners[id(parameter)]) > 1:
                raise ValueError(
                    f"layers {owners[id(parameter)]} share a tensor, so that one cannot be put right without the other"
                )
        wanted.append(place)
    with modes_kept(module):
        module.eval()
        used = places_used(module, wanted, batch)
    if not used:
        raise ValueError("merged must have Linear, convolution or BatchNorm layers of hidden units, got none that runs")
    return used


def _measure(model: nn.Module, places: dict[Place, int], batches: Iterable[Any]) -> dict[Place, Moments]:
    """Mean and deviation of the entries of every place, over all batches."""
    moments = {place: Moments() for place in places}
    left = sum(places.values())

    def see(place: Place, shown: Tensor) -> None:
        nonlocal left
        moments[place].add(entries_first(shown, place.dim))
        left -= 1
        if left == 0:
            raise _SeenEnough

    with modes_kept(model), watching(model, places, see):
        model.eval()
        for batch in batches:
            left = sum(places.values())
            with contextlib.suppress(_SeenEnough):
                run(model, batch)
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
    segments = spec.axes[place.parameter][place.axis].segments
    runs = [torch.full((axis_size((s,), spec.sizes),), s.group is not None) for s in segments]
    return torch.cat(runs)


def _check_matches(models: Any, matches: Any) -> list[Permutations | None]:
    """For each model its permutations."""
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
    for i, match in enumerate(matches):
        if match is not None:
            check_type(f"matches[{i}]", match, (Matching, Permutations), "a Matching, Permutations or None")
    return [match.permutations if isinstance(match, Matching) else match for match in matches]


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    shares = [1.0 / count] * count if weights is None else check_floats("weights", weights)
    if len(shares) != count:
        raise ValueError(f"weights must have one entry for each of the {count} models, got {len(shares)}")
    if abs(sum(shares) - 1.0) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {sum(shares)}")
    return shares
