"""Does a spec keep the function? Random elements in, the same outputs out, or the group that breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import check_finite, check_int, check_type
from .._models import tensors_of, unwrapped
from .._modes import neutral
from .._version import __version__
from .bench import FAILURES, Bench, CannotVerifyError, generators_kept
from .calls import Call, calls_of, shapes_of
from .comparison import Comparison, SymmetryError
from .folds import Fold
from .groups import Axis
from .pure import untied
from .spec import PermutationSpec
from .verification import Verification, structure_of

__all__ = ["CannotVerifyError", "SymmetryError", "examine", "verify_folds", "verify_spec"]


# A unit that is silent for all example inputs hides what is done to it: draw the weights more than once.
TRIALS = 3


@neutral
def verify_spec(
    model: nn.Module, spec: PermutationSpec, example_inputs: Any, *, seed: int = 0, tolerance: float = 1e-10
) -> float:
    """Check that every group of `spec` can be moved, as its kind says, without changing what `model` computes.

    The check runs on a copy in eval mode whose parameters and running statistics are random: zero biases, unit
    norms and zero-initialised layers of a fresh model would hide wrong permutations. Groups (with all that they
    own) are permuted, or turned by random rotations, together and in parts; if the outputs change, each is by itself,
    so that a failure names its group. Of a spec with folds the random parameters are put into pure form first, which
    must change nothing either; the model itself need not be in it. Forward hooks run on the copy too. It takes the
    memory of two copies of the model in float64.

    What is no fault of the spec is told from it. The copy is in float64, and what its forward pass casts to float32
    or less stays in float64; where that does not run, it is in the model's own dtype, and a change counts as
    rounding only if it is of the size of rounding and not the same at weights nearby. Where the same weights give
    other outputs in a second run, noise is made constant: dropout drops nothing, random numbers are their mean, or
    0.7 deviations from it. Where the forward pass keeps something from one call to the next, every run has a copy of
    its own, and attributes that it fills by itself begin empty. What was found is left as ``spec.verified``.

    Args:
        model: left as it is.
        spec: bound to the model here. Its attribute `verified` is set.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; tensors
            or numpy arrays, nested as the forward pass takes them. They are copied for every run.
        seed: of the random parameters and permutations.
        tolerance: largest allowed change of an output entry, relative to the largest output entry. Right specs
            change outputs by rounding in float64 only, about 1e-15.

    Returns:
        The largest relative change that was seen.

    Raises:
        TypeError: `model` is no module.
        ValueError: the spec does not fit the model, or the outputs cannot be compared: the forward pass fails, is
            random whatever is done, returns no numbers, or none that are finite at random weights.
        SymmetryError: a group breaks the function, or the folding of a norm does; it names the group and its
            parameters.
    """
    module = unwrapped("model", model)
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    check_int("seed", seed, 0)
    if not check_finite("tolerance", tolerance) > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    tensors_of("model", module)
    calls = calls_of(module, example_inputs)
    found = examine(module, spec.bind(module), calls, seed=seed, tolerance=tolerance, trials=TRIALS)
    object.__setattr__(spec, "verified", found)
    return found.error


def examine(
    module: nn.Module,
    bound: PermutationSpec,
    calls: Sequence[Call],
    *,
    seed: int = 0,
    tolerance: float = 1e-10,
    trials: int = 2,
    by: str = "verify_spec",
) -> Verification:
    """What `verify_spec` does, with a bound spec, which is left as it is, and the ways in which the forward pass may
    be called, the first that runs. Raises as that does."""
    unties = any(isinstance(fold, Fold) and fold.is_untying for fold in bound.folds)
    with generators_kept():
        bench, outputs = _running(untied(module, bound) if unties else module, calls, bound, seed)
        tied = bench.beside(module) if unties else None
        found = Comparison(bench, bound, outputs, np.random.default_rng(seed), tolerance, tied)
        error = max(found.worst_change(trial) for trial in range(trials))
    return Verification(
        by=by,
        version=__version__,
        model=type(module).__qualname__,
        inputs=shapes_of(bench.call.given),
        error=error,
        precision=str(bench.dtype).removeprefix("torch."),
        note="; ".join(found.notes()),
        structure=structure_of(module),
    )


def verify_folds(module: nn.Module, bound: PermutationSpec, example_inputs: Any) -> None:
    """What `verify_spec` does for the folds of a bound spec alone."""
    fixed = {name: tuple(Axis(dims=axis.dims) for axis in axes) for name, axes in bound.axes.items()}
    alone = PermutationSpec({}, fixed, folds=bound.folds).bind(module)
    examine(unwrapped("model", module), alone, calls_of(module, example_inputs), trials=1, by="fold_norms")


def _running(
    module: nn.Module, calls: Sequence[Call], bound: PermutationSpec, seed: int
) -> tuple[Bench, tuple[list[Tensor], list[Tensor]]]:
    """The model in the finest precision that it runs in, and its outputs at two draws of weights."""
    own = {tensor.dtype for tensor in module.state_dict().values() if isinstance(tensor, Tensor)}
    finer = (torch.float64, torch.float32) if own & {torch.float16, torch.bfloat16} else (torch.float64,)
    failed: BaseException | None = None
    for call in calls:
        for dtype in (*finer, None):
            try:
                bench = Bench(module, call, dtype, tuple(bound.unsaved))
                # Other weights than those of the comparison.
                return bench, bench.settle(np.random.default_rng([seed, 1]))
            except CannotVerifyError:
                raise
            except FAILURES as error:
                failed = error
    raise CannotVerifyError(
        f"model must run on example_inputs {shapes_of(calls[0].given)}, but its forward pass fails in float64 and in "
        f"its own dtype: {type(failed).__name__}: {failed}"
    ) from failed
