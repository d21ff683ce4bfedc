"""Weight matching: permutations that bring one model's weights closest to another's.

argmin_pi ||theta_a - pi(theta_b)||^2 = argmax_pi <theta_a, pi(theta_b)>, by coordinate descent over groups
(Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1). With all other groups held, the objective is
linear in one group's permutation, so that its best choice is a linear assignment problem.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .._backend import check_device
from .._checks import check_int, check_type, fail_type
from .._models import Model, check_numbers, check_same_tensors, counted_names, tensors_of
from .._progress import Progress
from ..symmetry import Permutations, PermutationSpec
from .descent import CoordinateDescent
from .result import Matching

__all__ = ["weight_matching"]


def weight_matching(
    model_a: Model,
    model_b: Model,
    spec: PermutationSpec,
    *,
    init: str | Permutations = "anchored",
    restarts: int = 1,
    max_sweeps: int = 100,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Matching:
    """Find permutations of model b's units that maximise <theta_a, pi(theta_b)>.

    All weights and biases count, affine parameters of normalisation layers too; running statistics and integer
    buffers do not (they are permuted with their units all the same). Work follows what moves: a group is solved
    again only if a neighbour moved, its gains are corrected by the entries that moved, and its assignment goes on
    from its last one. Each step raises the objective, so that the search ends, in a local optimum.

    Args:
        model_a, model_b: modules or state dicts of one architecture, in any mix. Neither is changed.
        spec: what may be permuted; bound to the models here.
        init: where to start: "anchored" (outwards from the fixed axes, each group by what is settled around it),
            "identity", "random" (by `seed`), or Permutations (not changed).
        restarts: how many searches to make; those after the first start at random. The best objective is kept,
            of equal ones the first.
        max_sweeps: end each search after so many passes over the groups, converged or not.
        seed: of the order in which groups are visited, and of a random start. Same inputs and same seed, same
            result; the global generators are neither read nor moved.
        device: where gain matrices are computed; None: where model a's tensors are. Assignments are solved on the
            CPU.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A `Matching`; ``.apply(model_b)`` gives the permuted model.

    Raises:
        TypeError: a model that is neither a module nor a state dict, or another argument of the wrong kind.
        ValueError: models of different shapes, a spec that does not fit them, weights that are not finite or so
            large that their products are not, or an option out of range.
    """
    tensors_a, tensors_b = tensors_of("model_a", model_a), tensors_of("model_b", model_b)
    check_same_tensors("model_b", tensors_b, "model_a", tensors_a)
    check_numbers("model_a", tensors_a)
    check_numbers("model_b", tensors_b)
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    check_int("max_sweeps", max_sweeps, 1)
    check_int("seed", seed, 0)
    device = check_device("device", device)
    check_int("restarts", restarts, 1)
    spec = spec.bind(tensors_a)
    start = _start(init, spec, seed)
    counted = set(counted_names(model_a, tensors_a)) & set(counted_names(model_b, tensors_b))
    names = [name for name in tensors_a if name in counted]
    _check_finite("model_a", tensors_a, names)
    _check_finite("model_b", tensors_b, names)

    began = time.perf_counter()
    searches = []
    for attempt in range(restarts):
        begin = start if attempt == 0 else Permutations.random(spec, seed + attempt)
        descent = CoordinateDescent(spec, tensors_a, tensors_b, names, begin, device)
        if attempt == 0 and init == "anchored":
            descent.anchor()
        history, converged = descent.run(np.random.default_rng(seed + attempt), max_sweeps, progress)
        searches.append((descent.objective(), descent.choices, history, converged))
    objective, choices, history, converged = max(searches, key=lambda search: search[0])
    seconds = time.perf_counter() - began
    permutations = Permutations(spec, choices)
    identity = Permutations.identity(spec)
    return Matching(
        permutations=permutations,
        objective=objective,
        l2_before=_distance(tensors_a, tensors_b, names, identity),
        l2_after=_distance(tensors_a, tensors_b, names, permutations),
        converged=converged,
        history=tuple(history),
        seconds=seconds,
        method="weight matching",
    )


def _start(init: str | Permutations, spec: PermutationSpec, seed: int) -> Permutations:
    if isinstance(init, Permutations):
        # Checked against this spec: it may have been made for another model.
        return Permutations(spec, init.choices)
    if not isinstance(init, str):
        fail_type("init", "'anchored', 'identity', 'random' or Permutations", init)
    if init in ("anchored", "identity"):
        return Permutations.identity(spec)
    if init == "random":
        return Permutations.random(spec, seed)
    raise ValueError(f"init must be 'anchored', 'identity', 'random' or Permutations, got {init!r}")


def _check_finite(argument: str, tensors: dict[str, Tensor], names: Iterable[str]) -> None:
    for name in names:
        # The sum is finite only if all entries are; where it is not, they are looked at one by one.
        if not math.isfinite(tensors[name].sum().item()) and not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{argument} must have finite weights, but {name!r} holds nan or infinity")


def _distance(
    tensors_a: dict[str, Tensor],
    tensors_b: dict[str, Tensor],
    names: Iterable[str],
    permutations: Permutations,
) -> float:
    """||theta_a - pi(theta_b)|| over the named tensors, summed in float64."""
    total = 0.0
    for name in names:
        a = tensors_a[name].double()
        total += float((a - permutations.apply_to(name, tensors_b[name]).to(a.device).double()).square().sum())
    return math.sqrt(total)
