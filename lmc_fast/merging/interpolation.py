"""Models between models: interpolation and weighted merging of weights that are moved first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

from torch import Tensor, nn

from .._checks import check_finite, check_floats, fail_type
from .._derived import Derived, derived_weights
from .._entry_weights import checked_entry_weights
from .._models import Model, ModelT, check_same_tensors, tensors_of, with_tensors
from .._modes import neutral
from .._tensors import have_same_entries, unsummable
from .._wrappers import unwrapped
from ..matching import ManyMatching
from ..matching.results.matching import Match, choice_of
from ..symmetry import check_pure
from ..symmetry.transforms import Choice
from .entry_weighted import entry_weighted
from .sums import weighted

__all__ = [
    "checked_choices",
    "checked_tensors",
    "derived_of",
    "interpolate",
    "merge",
    "weighted",
    "weighted_sums",
]

# For each model the weights of its entries, by name.
EntryWeights = Sequence[Mapping[str, Tensor]]


@overload
def interpolate(
    model_a: ModelT,
    model_b: Model,
    lam: float,
    match: Match = None,
    *,
    entry_weights: EntryWeights | None = None,
    backend: str = "auto",
) -> ModelT: ...
@overload
def interpolate(
    model_a: ModelT,
    model_b: Model,
    lam: Sequence[float],
    match: Match = None,
    *,
    entry_weights: EntryWeights | None = None,
    backend: str = "auto",
) -> list[ModelT]: ...
@neutral
def interpolate(
    model_a: ModelT,
    model_b: Model,
    lam: float | Sequence[float],
    match: Match = None,
    *,
    entry_weights: EntryWeights | None = None,
    backend: str = "auto",
) -> ModelT | list[ModelT]:
    """The model at (1 - lam) theta_a + lam pi(theta_b), or one for each of several `lam`, all in one read.

    Args:
        model_a, model_b: modules or state dicts of one architecture; neither is changed.
        lam: 0 for model a, 1 for the moved model b; other values extrapolate. A sequence or an array gives a
            list.
        match: a `Matching`, `Permutations` or `Transforms` for model b; None interpolates it as it is. What turns is
            turned first, in float32 or wider, and then summed.
        entry_weights: how much each entry of each model counts, as `fisher_weights` gives it: (of model a, of model
            b), by name; the weights of b move with its units. The entry becomes the mean with weights (1 - lam) w_a and
            lam pi(w_b) over their sum (Matena, Raffel, NeurIPS 2022, equation 4), and stays the plain one where these
            are 0; `lam` is in 0..1 then, and nothing turns. None: all count alike.
        backend: "auto", "torch", "native" (CPU) or "triton" (GPU).

    Returns:
        A new model of the kind of `model_a`, in its dtypes and on its devices. Running statistics are interpolated
        (see `reestimate_batchnorm`); integer tensors are model a's, and so is what cannot be summed (complex numbers,
        floats of 8 bits) where both hold the same. Of layers with weight normalisation or pruning
        it is the effective weight that is interpolated; those with a spectral norm get the singular vectors of their
        interpolated matrix, computed anew.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models of different shapes, tensors that are no plain numbers (quantised, sparse, different complex
            ones), a `match` made for other models, a `lam` that is not finite, or `entry_weights` that do not fit.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    several = hasattr(lam, "__len__") and not isinstance(lam, str) and getattr(lam, "ndim", 1) > 0
    values = check_floats("lam", lam) if several else [check_finite("lam", lam)]
    names = ["model_a", "model_b"]
    tensors = checked_tensors(names, [model_a, model_b])
    choices = checked_choices(["", "match"], [None, match], names, tensors)
    derived = derived_of([model_a, model_b], tensors)
    rows = _means(tensors, [[1.0 - v, v] for v in values], choices, entry_weights, backend, derived)
    merged = [with_tensors(model_a, sums) for sums in rows]
    return merged if several else merged[0]


@neutral
def merge(
    models: Sequence[ModelT],
    matches: Sequence[Match] | ManyMatching | None = None,
    *,
    weights: Sequence[float] | None = None,
    entry_weights: EntryWeights | None = None,
    backend: str = "auto",
) -> ModelT:
    """The weighted mean of moved models: sum_m weights[m] * pi_m(theta_m).

    Args:
        models: one at least, modules or state dicts of one architecture; none is changed.
        matches: for each model the `Matching`, `Permutations` or `Transforms` that lays it over the others, None for
            one that stays as it is (the one which the others were matched to); or the `ManyMatching` of all.
        weights: one for each model, summing to 1; None: equal ones.
        entry_weights: one mapping for each model, as of `interpolate`: sum_m weights[m] w_m theta_m over
            sum_m weights[m] w_m, entry by entry, with weights that are 0 or more.
        backend: "auto", "torch", "native" (CPU) or "triton" (GPU).

    Returns:
        A new model of the kind of ``models[0]``, in its dtypes and on its devices; integer tensors are its. Derived
        weights are merged as `interpolate` does.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no models, models of different shapes, lists of different lengths, weights that do not sum
            to 1, or `entry_weights` that do not fit.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    if isinstance(models, (str, dict)) or not isinstance(models, Sequence):
        fail_type("models", "a sequence of models", models)
    if not models:
        raise ValueError("models must hold one model at least, got none")
    count = len(models)
    if matches is None:
        matches = [None] * count
    if isinstance(matches, ManyMatching):
        matches = matches.permutations
    if not isinstance(matches, Sequence):
        fail_type("matches", "a sequence with one entry for each model, or a ManyMatching", matches)
    if len(matches) != count:
        raise ValueError(f"matches must have one entry for each of the {count} models, got {len(matches)}")
    shares = [1.0 / count] * count if weights is None else check_floats("weights", weights)
    if len(shares) != count:
        raise ValueError(f"weights must have one entry for each of the {count} models, got {len(shares)}")
    if abs(sum(shares) - 1.0) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {sum(shares)}")
    names = [f"models[{i}]" for i in range(count)]
    tensors = checked_tensors(names, models)
    choices = checked_choices([f"matches[{i}]" for i in range(count)], matches, names, tensors)
    (sums,) = _means(tensors, [shares], choices, entry_weights, backend, derived_of(models, tensors))
    return with_tensors(models[0], sums)


def _means(
    tensors: Sequence[dict[str, Tensor]],
    rows: Sequence[Sequence[float]],
    choices: Sequence[Choice | None],
    entry_weights: EntryWeights | None,
    backend: str,
    derived: Sequence[Derived],
) -> list[dict[str, Tensor]]:
    """`weighted`, or `entry_weighted` where entries have weights."""
    if entry_weights is None:
        return weighted(tensors, rows, choices, backend, derived)
    checked = checked_entry_weights("entry_weights", entry_weights, tensors)
    return entry_weighted(tensors, rows, choices, checked, backend, derived)


def weighted_sums(
    states: Sequence[dict[str, Tensor]],
    weights: Sequence[Sequence[float]],
    model: nn.Module | None = None,
    *,
    backend: str = "auto",
) -> list[dict[str, Tensor]]:
    """For every row of weights the sum of state dicts of the same tensors, all in one read.

    Args:
        states: as `tensors_of` gives them.
        weights: [outputs][states].
        model: a module whose states these are, which tells how weights are derived.

    Returns:
        [outputs]; integer tensors are those of the first.
    """
    derived = derived_of([*states[:1], *([] if model is None else [model])], states)
    return weighted(states, weights, [None] * len(states), backend, derived)


def checked_tensors(names: Sequence[str], models: Sequence[Model]) -> list[dict[str, Tensor]]:
    """The tensors of all models, checked against those of the first.

    What cannot be summed (complex numbers, floats of 8 bits) is taken where all models hold the same.
    """
    tensors = [tensors_of(name, model) for name, model in zip(names, models, strict=True)]
    met = [check_same_tensors(name, others, names[0], tensors[0]) for name, others in zip(names, tensors, strict=True)]
    for name, of_model in zip(names, met, strict=True):
        for key, tensor in of_model.items():
            kind = unsummable(tensor)
            if kind is not None and not all(have_same_entries(tensor, other[key]) for other in met):
                raise ValueError(
                    f"{name}[{key!r}] must be a dense float16, bfloat16, float32, float64 or integer tensor, or the "
                    f"same in all models, got {kind}"
                )
    return met


def derived_of(models: Sequence[Model], tensors: Sequence[dict[str, Tensor]]) -> list[Derived]:
    """The derived weights of models of one architecture: a module tells more than a state dict."""
    module = next((model for model in models if isinstance(model, nn.Module)), None)
    return derived_weights(tensors[0] if module is None else unwrapped("model", module), tensors[0])


def checked_choices(
    names: Sequence[str], matches: Sequence[Match], models: Sequence[str], tensors: Sequence[dict[str, Tensor]]
) -> list[Choice | None]:
    """How each match moves its model, checked against that.

    Args:
        names: what the caller calls the matches.
        models, tensors: what the caller calls the models, and theirs. If one match is of models in pure form, all are
            to be.
    """
    found: list[Choice | None] = []
    for name, match, model in zip(names, matches, tensors, strict=True):
        choice = choice_of(name, match)
        if choice is None:
            found.append(None)
            continue
        bound = choice.spec.bind(model)
        for argument, other in zip(models, tensors, strict=True):
            check_pure(argument, other, bound)
        for key, tensor in model.items():
            kind = unsummable(tensor)
            if kind is not None and not all(axis.is_fixed for axis in bound.axes.get(key, ())):
                raise ValueError(f"{name} must leave what has no mean where it is, but moves {key!r}, which is {kind}")
        found.append(choice.bound_to(bound))
    return found
