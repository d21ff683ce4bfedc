"""Weight matching: permutations, and rotations, that bring one model's weights closest to another's.

argmin_pi ||theta_a - pi(theta_b)||^2 = argmax_pi <theta_a, pi(theta_b)>, by coordinate descent over groups
(Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1). With all other groups held, the objective is
linear in one group's permutation, so that its best choice is a linear assignment problem; so it is in a rotation, of
which the polar factor of the same gain is the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._backend import check_device
from .._checks import check_int, check_type, fail_type
from .._chunks import numbers
from .._entry_weights import checked_entry_weights
from .._models import Model, check_numbers, check_same_tensors, tensors_of
from .._modes import neutral
from .._progress import Progress
from ..ops.permuted_dot import Overlap, overlaps
from ..symmetry import Permutations, PermutationSpec, Transforms, check_pure
from ..symmetry.transforms import Choice, choice_for
from .engine.descent import CoordinateDescent
from .engine.emphasis import emphasised
from .engine.frank_wolfe import check_affine, frank_wolfe
from .engine.measures import distance_between, distance_from, objective_of
from .engine.reweighted import Searched, by_direction, by_entries, weighted_distance
from .engine.seen import seen
from .engine.steps import Step
from .engine.turning import TurningDescent
from .given import spec_of
from .results.matching import Matching, Sweep
from .starts import listed, shuffled, start_of
from .verification import ensure_verified

__all__ = ["check_finite_weights", "check_freeze", "sweeps_of", "weight_matching"]

SEARCHES = ("spectral", "coordinate_descent", "frank_wolfe", "leading")
WEIGHTINGS = ("product", "sum")
SIMILARITIES = ("inner", "cosine")


@neutral
def weight_matching(
    model_a: Model,
    model_b: Model,
    spec: PermutationSpec | None = None,
    *,
    init: str | Choice | Sequence[str | Choice] = "anchored",
    search: str = "spectral",
    restarts: int = 1,
    weights: Mapping[str, float] | None = None,
    entry_weights: Sequence[Mapping[str, Tensor]] | None = None,
    entry_weighting: str = "sum",
    similarity: str = "inner",
    freeze: Iterable[str] = (),
    max_sweeps: int = 100,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | Sequence[Progress] = False,
    example_inputs: Any = None,
) -> Matching:
    """Find what of a spec's permutations, rotations and the like maximises <theta_a, pi(theta_b)>.

    All weights and biases count, affine parameters of normalisation layers too; running statistics and integer
    buffers do not (they are permuted with their units all the same). Work follows what moves: a group is solved
    again only if a neighbour moved, its gains are corrected by the entries that moved, and its assignment goes on
    from its last one. Each step raises the objective, so that the search ends, in a local optimum; where it begins
    decides how good a one.

    Args:
        model_a, model_b: modules or state dicts of one architecture, in any mix. Neither is changed.
        spec: what may be permuted; bound to the models here. None: what `derive_spec` finds in model a, a module, with
            `example_inputs`.
        init: where to start: "anchored" (outwards from the fixed axes, each group by what is settled around it),
            "identity", "random" (by `seed`), or Permutations or Transforms (not changed). "anchored" ends no lower
            than the identity is. A list of these: a search from each.
        search: "spectral", which first matches the leading parts of large weights alone, those of their largest
            singular values, for they say where most units go, and goes on from there by coordinate descent over all of
            the weights; small weights are matched whole from the beginning, and so are all where finding these parts
            would take long beside the rest (convolutions a few hundred channels wide). "coordinate_descent", one group
            after another until none can gain alone. Or "frank_wolfe", which moves all groups at once over doubly
            stochastic matrices, from between the start and the mean of all permutations, rounds, and goes on likewise:
            some times as slow, one more matrix a group, and as a rule the best objective; it takes two permuted axes a
            parameter and groups inside their owners alone. None of these ends below its start. Or "leading":
            coordinate descent over copies of both models' weights in which the 16 largest singular values of each
            matrix count three times. The objective is lower, and so may the barrier be; `docs/benchmarks.md` tells
            where it was. It is the inner product of these copies that does not end below its start. Where groups of
            other kinds than permutations take part it is coordinate descent that runs, for "spectral" and "leading",
            too.
        restarts: how many searches to make, those from a list counted as one; the others start at random. The best
            objective (of "leading", that of its copies) is kept, of equal ones the first.
        weights: how much a parameter counts in the objective and in the distances, by name: 0 or more; 1 for those
            left out. Others than 0 and 1 take a copy of the parameter.
        entry_weights: how much each entry of each model counts, as `fisher_weights` gives it: (of model a, of model b),
            by the names of all weights, each of its parameter's shape, 0 or more; those of b move with its units. What
            is made least then is sum w (theta_a - pi(theta_b))^2 over all entries; its half, below zero, is the
            objective, and its root are the distances. It takes three or four products in place of one and as many times
            the memory, permutations alone, and coordinate descent in place of "spectral" and "leading".
        entry_weighting: "sum": w = w_a + pi(w_b), which foretells, to second order and by the diagonal, what both
            models' losses rise by half-way where the weights are the curvatures; or "product": w = w_a pi(w_b), to
            which those entries count that are of weight in both models, and which merges digits worse.
        similarity: "inner": units count by their lengths. Or "cosine": every row of a parameter (the incoming weights
            of one unit) counts by its direction alone, and a bias or another parameter of one axis by its own; the
            objective is that of rows of length 1. For permutations alone.
        freeze: names of groups that stay as `init` has them (in place, for "anchored"). Units inside a frozen
            group's owner go where that goes, in the order that they have.
        max_sweeps: end each search after so many passes over the groups, converged or not; Frank-Wolfe's steps too.
        seed: of random starts, and of the order in which these visit the groups; other starts go outwards from the
            fixed axes, sweep after sweep. Same inputs and same seed, same result, on any number of threads; the
            global generators are neither read nor moved.
        device: where gain matrices are computed; None: where model a's tensors are. Assignments are solved on the
            CPU.
        progress: True for a bar, a function (description, done, total), or a `Logger`; or a list of these, one for each
            start in a list.
        example_inputs: with a module as model a, the spec is derived from these where it is left out, and is verified
            on them first, as by `verify_spec`, unless it was before.

    Returns:
        A `Matching`; ``.apply(model_b)`` gives the moved model. Its `verified` tells whether the spec is known to
        keep the function.

    Raises:
        SymmetryError: the spec does not keep model a's function.
        TypeError: a model that is neither a module nor a state dict, or another argument of the wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, models that are not in the pure form that
            a spec with rotations describes (`fold_norms`), weights that are not finite or so
            large that their products are not, names that no parameter or group has, entry weights that lack a weight
            or do not fit it, an option out of range, or search="frank_wolfe", entry weights or similarity="cosine"
            with groups of other kinds than permutations.
    """
    began = time.perf_counter()
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    tensors_b = check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    check_int("restarts", restarts, 1)
    check_int("max_sweeps", max_sweeps, 1)
    check_int("seed", seed, 0)
    device = check_device("device", device)
    for argument, value, known in (
        ("search", search, SEARCHES),
        ("entry_weighting", entry_weighting, WEIGHTINGS),
        ("similarity", similarity, SIMILARITIES),
    ):
        if value not in known:
            raise ValueError(f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}")
    spec = spec_of(model_a, spec, example_inputs=example_inputs).bind(model_a)
    check_numbers("model_a", tensors_a, spec.axes)
    check_numbers("model_b", tensors_b, spec.axes)
    check_pure("model_a", tensors_a, spec)
    check_pure("model_b", tensors_b, spec)
    if search == "frank_wolfe":
        spec.check_only_permutes("search='frank_wolfe'")
        check_affine(spec)
    if entry_weights is not None:
        spec.check_only_permutes("entry_weights")
        if similarity != "inner":
            raise ValueError("similarity must be 'inner' with entry_weights, which weigh entries as they are")
    if similarity != "inner":
        spec.check_only_permutes(f"similarity={similarity!r}")
    inits = [init] if isinstance(init, (str, Permutations, Transforms)) else listed(init)
    starts = [start_of(each, spec, seed) for each in inits]
    hooks = (
        list(progress) if isinstance(progress, Sequence) and not isinstance(progress, str) else [progress] * len(starts)
    )
    if len(hooks) != len(starts):
        raise ValueError(f"progress must be one, or one for each of the {len(starts)} starts, got {len(hooks)}")
    frozen = check_freeze(freeze, spec)
    view = seen([model_a, model_b], [tensors_a, tensors_b], spec)
    tensors_a, tensors_b = view.tensors
    shares = _check_weights(weights, view.names, tensors_a, view.renamed)
    plain = Searched(view.spec, tensors_a, tensors_b, shares)
    norms = _norms(plain)
    # Norms are finite only if all entries are; else these are looked at.
    odd = [name for name, of in norms.items() if not (math.isfinite(of.a) and math.isfinite(of.b))]
    check_finite_weights("model_a", tensors_a, odd)
    check_finite_weights("model_b", tensors_b, odd)
    if example_inputs is not None:
        check_type("model_a", model_a, nn.Module, "a torch.nn.Module, to be run on example_inputs")
    verified = ensure_verified("weight_matching", model_a, spec, example_inputs=example_inputs)

    entries = None if entry_weights is None else _entries(plain, entry_weights, view.renamed, entry_weighting)
    looked = plain
    if entries is not None:
        looked = by_entries(*plain.parts, *entries)
        # Leading parts are those of weights, not of their squares.
        search = "coordinate_descent" if search in ("spectral", "leading") else search
    elif similarity == "cosine":
        looked = by_direction(*plain.parts)
    norms = norms if looked is plain else _norms(looked)
    inner = sum(weight * norms[name].dot for name, weight in looked.shares.items())
    # What a search raises the inner product of.
    raised = looked
    if search == "leading" and isinstance(starts[0], Permutations):
        a, b = (emphasised(looked.spec, side, shares) for side in (looked.tensors_a, looked.tensors_b))
        raised = Searched(looked.spec, a, b, shares)
    begins: list[tuple[Choice, str | Choice, int, Progress]] = [
        *((start, how, seed, hook) for start, how, hook in zip(starts, inits, hooks, strict=True)),
        *((shuffled(starts[0], frozen, seed + more), "random", seed + more, hooks[0]) for more in range(1, restarts)),
    ]
    searches: list[_Search] = []
    descent: CoordinateDescent | None = None
    for begin, how, of, hook in begins:
        pair = raised.parts
        if isinstance(begin, Permutations):
            if descent is None:
                descent = CoordinateDescent(*pair, begin, frozen, device, norms if raised is looked else None)
            else:
                descent = descent.again(begin)
            is_known = raised is looked and how in ("anchored", "identity")
            reached = inner if is_known else descent.objective()
            searches.append(_search(descent, how, reached, search, of, max_sweeps, hook))
        else:
            turning = TurningDescent(*pair, begin, frozen, device, norms)
            searches.append(_turned(turning, how, of, max_sweeps, hook))
    best = max(searches, key=lambda search: search.objective)
    moved, identity = choice_for(view.spec, best.choices), choice_for(view.spec)
    if entries is None:
        direct = partial(distance_between, tensors_a, tensors_b, shares)
    else:
        direct = partial(weighted_distance, *plain.parts[1:], *entries)
    objective, history = best.objective, best.history
    if raised is not looked:
        objective = objective_of(looked.tensors_a, looked.tensors_b, shares, moved)
    if looked is plain:
        squares = sum(weight * (norms[name].a + norms[name].b) for name, weight in shares.items())
        before, after = (
            distance_from(squares, dot, partial(direct, choice))
            for dot, choice in ((inner, identity), (objective, moved))
        )
    else:
        before, after = direct(identity), direct(moved)
    if entries is not None:
        # What the search left aside is a constant.
        objective = -0.5 * after**2
        behind = objective - looked.scale * best.objective
        history = tuple(replace(sweep, objective=looked.scale * sweep.objective + behind) for sweep in history)
    return Matching(
        choice=choice_for(spec, best.choices),
        objective=objective,
        l2_before=before,
        l2_after=after,
        converged=best.converged,
        history=history,
        seconds=time.perf_counter() - began,
        method=_named(search, entries, similarity),
        **verified._asdict(),
    )


def _named(search: str, entries: object, similarity: str) -> str:
    parts = ["weight matching"]
    parts += ["by weighted entries"] if entries is not None else []
    parts += ["by directions"] if similarity == "cosine" else []
    return " ".join(parts) + {"frank_wolfe": ", Frank-Wolfe", "leading": ", leading parts"}.get(search, "")


def _norms(pair: Searched) -> dict[str, Overlap]:
    both = ((pair.tensors_a[name], pair.tensors_b[name].to(pair.tensors_a[name].device)) for name in pair.shares)
    return dict(zip(pair.shares, overlaps(both), strict=True))


def _entries(
    pair: Searched, given: Sequence[Mapping[str, Tensor]], renamed: Mapping[str, str], weighting: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The entry weights of everything that counts, and how they are combined."""
    computed = next(iter(renamed.values()), None)
    if computed is not None:
        raise ValueError(
            f"entry_weights take models with weights of their own, but {computed!r} is computed from others"
        )
    a, b = checked_entry_weights("entry_weights", given, (pair.tensors_a, pair.tensors_b))
    for i, mapping in enumerate((a, b)):
        missing = next((name for name, share in pair.shares.items() if share > 0 and name not in mapping), None)
        if missing is not None:
            raise ValueError(f"entry_weights[{i}] must hold a tensor for every weight, but lacks {missing!r}")
    return a, b, weighting


@dataclass(frozen=True)
class _Search:
    """What one start led to."""

    choices: Mapping[str, Any]
    objective: float
    history: tuple[Sweep, ...]
    converged: bool


def _search(
    descent: CoordinateDescent,
    init: str | Choice,
    reached: float,
    search: str,
    seed: int,
    max_sweeps: int,
    progress: Progress,
) -> _Search:
    """Run one search to its end, and tell its sweeps by the objective after each.

    Args:
        reached: the objective at the choices as they are, below which it does not end.
    """
    rng = np.random.default_rng(seed) if init == "random" else None

    def begin() -> Callable[[], Sequence[str]]:
        if search == "spectral":
            order = descent.begin(init == "anchored", max_sweeps, progress)
        else:
            order = descent.anchor() if init == "anchored" else [root for root, _ in descent.outward()]
        if search == "frank_wolfe":
            frank_wolfe(descent, max_sweeps, progress)
        return lambda: order if rng is None else rng.permutation(order).tolist()

    steps, converged, objective = descent.descend(begin, reached, max_sweeps, progress)
    return _Search(descent.choices, objective, tuple(sweeps_of(steps, objective)), converged)


def _turned(descent: TurningDescent, init: str | Choice, seed: int, max_sweeps: int, progress: Progress) -> _Search:
    """As `_search`, over groups of every kind."""
    rng = np.random.default_rng(seed) if init == "random" else None

    def order() -> Sequence[str]:
        outward = descent.in_order()
        return outward if rng is None else rng.permutation(outward).tolist()

    steps, converged, objective = descent.settle(None if init == "anchored" else order, max_sweeps, progress)
    return _Search(descent.elements, objective, tuple(sweeps_of(steps, objective)), converged)


def sweeps_of(steps: Sequence[Step], objective: float) -> list[Sweep]:
    """The sweeps of a search that ended at this objective, summed in float64; what was gained leads back from it."""
    after = objective - sum(step.gained for step in steps)
    history = []
    for step in steps:
        after += step.gained
        history.append(Sweep(after, step.moved, step.solved, step.seconds))
    return history


def check_freeze(freeze: Iterable[str], spec: PermutationSpec) -> frozenset[str]:
    if isinstance(freeze, str) or not isinstance(freeze, Iterable):
        fail_type("freeze", "names of groups", freeze)
    frozen = list(freeze)
    for name in frozen:
        if name not in spec.groups:
            raise ValueError(f"freeze names group {name!r}, which the spec lacks; it has {', '.join(spec.groups)}")
    return frozenset(frozen)


def _check_weights(
    weights: Mapping[str, float] | None,
    counted: Iterable[str],
    tensors: Mapping[str, Tensor],
    renamed: Mapping[str, str],
) -> dict[str, float]:
    """The weight of every parameter that counts; what an effective weight is computed from may stand for it."""
    given = {} if weights is None else weights
    check_type("weights", given, Mapping, "a mapping from names of parameters to numbers")
    shares = dict.fromkeys(counted, 1.0)
    for name, weight in given.items():
        name = renamed.get(name, name)
        if name not in shares:
            why = "does not count" if name in tensors else "the models lack"
            raise ValueError(f"weights names {name!r}, which {why}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            fail_type(f"weights[{name!r}]", "a number", weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights[{name!r}] must be finite and 0 or more, got {weight}")
        shares[name] = float(weight)
    return shares


def check_finite_weights(argument: str, tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise ValueError, naming the tensor, where one of the named holds nan or infinity."""
    given = list(names)
    # The sum is finite only if all entries are; where it is not, they are looked at one by one.
    sums = numbers(tensors[name].sum() for name in given)
    for name, (total,) in zip(given, sums, strict=True):
        if not math.isfinite(total) and not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{argument} must have finite weights, but {name!r} holds nan or infinity")
