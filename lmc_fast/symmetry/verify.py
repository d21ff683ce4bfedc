"""Does a spec keep the function? Random permutations in, the same outputs out, or the group that breaks it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._checks import check_finite, check_int, check_type
from .._models import tensors_of, unwrapped
from .._modes import neutral
from .._version import __version__
from .bench import FAILURES, SCALES, Bench, CannotVerifyError, Weights, generators_kept, is_number
from .calls import Call, calls_of, shapes_of
from .exact import FLOATS
from .permutations import Permutations
from .spec import PermutationSpec
from .verification import Verification, structure_of

__all__ = ["CannotVerifyError", "SymmetryError", "examine", "verify_spec"]


# A unit that is silent for all example inputs hides what is done to it: draw the weights more than once.
TRIALS = 3
# Two random permutations of more units are never the same.
SMALL = 10
# A change is rounding only if it is at most this many times what rounding of weights and inputs changes,
ROUNDING = 64.0
# and if it is another one at other weights nearby: the mean of so many draws is then much smaller than each.
DRAWS = 8
STEADY = 0.85
FLOAT32 = torch.finfo(torch.float32).eps

Choices = dict[str, NDArray[np.int64]]


class SymmetryError(ValueError):
    """A spec permits a permutation that changes the model's outputs.

    Attributes:
        group: name of the group that breaks the function.
        error: largest change of an output entry, relative to the largest output entry.
    """

    def __init__(self, group: str, error: float, parameters: list[str], note: str = "") -> None:
        self.group, self.error = group, error
        super().__init__(
            f"permuting group {group!r} changes the model's outputs by {error:.2g} (relative to the largest): "
            f"an axis that carries it is missing from the spec or wrong. It is on: {', '.join(parameters)}"
            + (f" ({note})" if note else "")
        )


@neutral
def verify_spec(
    model: nn.Module, spec: PermutationSpec, example_inputs: Any, *, seed: int = 0, tolerance: float = 1e-10
) -> float:
    """Check that every group of `spec` can be permuted without changing what `model` computes.

    The check runs on a copy in eval mode whose parameters and running statistics are random: zero biases, unit
    norms and zero-initialised layers of a fresh model would hide wrong permutations. Groups (with all that they
    own) are permuted together and in parts; if the outputs change, each is by itself, so that a failure names its
    group. Forward hooks run on the copy too. It takes the memory of two copies of the model in float64.

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
        SymmetryError: a group breaks the function; it names the group and its parameters.
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
    with generators_kept():
        bench, outputs = _running(module, calls, bound, seed)
        found = _Comparison(bench, bound, outputs, np.random.default_rng(seed), tolerance)
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


class _Comparison:
    """Outputs with units permuted and not, at random weights."""

    def __init__(
        self,
        bench: Bench,
        bound: PermutationSpec,
        outputs: tuple[list[Tensor], list[Tensor]],
        rng: np.random.Generator,
        tolerance: float,
    ) -> None:
        self.bench, self.bound, self.rng, self.tolerance = bench, bound, rng, tolerance
        self.rounded = 0.0
        # By rounding error, what it changes at the weights of this trial.
        self.noise: dict[float, float] = {}
        first, second = outputs
        # Entries that no weight reaches, as a mask's, are no measure of the others.
        same_shapes = [tensor.shape for tensor in first] == [tensor.shape for tensor in second]
        self.reached = [one != other for one, other in zip(first, second, strict=True)] if same_shapes else None
        if bound.groups and self.reached is not None and not any(bool(mask.any()) for mask in self.reached):
            raise CannotVerifyError(
                "model gives the same outputs at other weights, so that nothing can be compared: they do not depend on "
                "the weights for these example_inputs, or the forward pass keeps them from an earlier call"
            )

    def notes(self) -> list[str]:
        """What was found beside the outputs' change."""
        bench, notes = self.bench, []
        if bench.kept_in is None:
            notes.append("the forward pass does not run in float64")
        if self.rounded:
            notes.append(f"changes up to {self.rounded:.2g} are rounding")
        if bench.is_seeded:
            notes.append("the forward pass is random, and was seeded")
        elif bench.is_calm:
            notes.append("the forward pass is random, with its noise made constant")
        if bench.is_fresh:
            notes.append("the forward pass remembers earlier calls, so that every run had a copy of its own")
        if bench.emptied:
            names = ", ".join(f"{a.part}.{a.name}".lstrip(".") for a in bench.emptied)
            notes.append(f"kept from earlier calls, and emptied: {names}")
        return notes

    def worst_change(self, trial: int) -> float:
        """Largest relative change at fresh random weights; SymmetryError above what the tolerance allows."""
        weights, reference = self._finite()
        self.noise.clear()
        worst = 0.0
        for roots in self._parts():
            choices = self._choices(roots, is_forced=trial == 0)
            error = self._relative_change(self._permuted(weights, choices), reference)
            if not error <= self.tolerance and not self._is_rounding(weights, choices, reference, error):
                self._blame(weights, reference, roots, choices, error)
            worst = max(worst, error)
        return worst

    def _parts(self) -> Iterator[list[str]]:
        """All root groups, then parts of the small ones of which any two groups stand apart in one.

        Two groups that a right spec has as one pass together by luck where both are permuted alike: not two large ones.
        """
        roots = self.bound.roots
        if roots:
            yield list(roots)
        small = [root for root in roots if self.bound.sizes[root] <= SMALL]
        for bit in range(len(small).bit_length() if len(roots) > 1 else 0):
            yield [root for place, root in enumerate(small, 1) if place >> bit & 1]

    def _choices(self, roots: Sequence[str], is_forced: bool) -> Choices:
        tree = [name for name in self.bound.groups if self.bound.root_of(name) in roots]
        # Owned groups of two units that all change places hide what only some of them would show.
        return {name: _random_rows(self.bound.shape(name), self.rng, is_forced) for name in tree}

    def _permuted(self, weights: Weights, choices: Choices) -> list[Tensor]:
        permutations, moved = Permutations(self.bound, choices), self._carrying(choices)
        return self.bench.run(
            {name: permutations.apply_to(name, tensor) if name in moved else tensor for name, tensor in weights.items()}
        )

    def _carrying(self, groups: Collection[str]) -> set[str]:
        """Names of the tensors that units of these groups are in: the others stay as they are loaded."""
        named = {**self.bound.axes, **self.bound.unsaved}
        return {name for name, axes in named.items() if any(group in groups for axis in axes for group in axis.groups)}

    def _finite(self) -> tuple[Weights, list[Tensor]]:
        """Random weights, and the outputs there; infinite entries, as of a mask, are at no fault if they stay."""
        with_infinite = None
        for scale in SCALES:
            weights = self.bench.draw(self.rng, scale)
            outputs = self.bench.run(weights)
            if all(bool(torch.isfinite(tensor).all()) for tensor in outputs):
                return weights, outputs
            if with_infinite is None and not any(bool(torch.isnan(tensor).any()) for tensor in outputs):
                with_infinite = (weights, outputs)
        if with_infinite is None or not any(bool(torch.isfinite(tensor).any()) for tensor in with_infinite[1]):
            raise CannotVerifyError(
                "model gives outputs that are not finite at random weights, so that nothing can be compared"
            )
        return with_infinite

    def _relative_change(self, outputs: list[Tensor], reference: list[Tensor]) -> float:
        if [tensor.shape for tensor in outputs] != [tensor.shape for tensor in reference]:
            return float("inf")
        worst = 0.0
        for change, scale in self._changes(outputs, reference):
            largest = float(change.abs().max()) if change.numel() else 0.0
            # not a number must fail
            worst = max(worst, largest / scale) if largest == largest else float("nan")
            if worst != worst:
                return worst
        return worst

    def _changes(self, outputs: list[Tensor], reference: list[Tensor]) -> Iterator[tuple[Tensor, float]]:
        """For each output the change of its entries, and the largest entry that the weights reach."""
        for place, (out, ref) in enumerate(zip(outputs, reference, strict=True)):
            counted = torch.isfinite(ref)
            # Infinity stays infinity of its sign.
            change = torch.where(out == ref, 0.0, out - ref)
            if self.reached is not None and self.reached[place].shape == ref.shape:
                counted &= self.reached[place]
            sizes = ref[counted].abs()
            scale = float(sizes.max()) if sizes.numel() else 1.0
            yield change, max(scale, torch.finfo(ref.dtype).tiny)

    def _is_rounding(self, weights: Weights, choices: Choices, reference: list[Tensor], error: float) -> bool:
        """Whether a change is of the size of rounding, and another one at weights nearby.

        What a wrong permutation changes is a smooth function of the weights; what rounding changes is not.
        """
        for unit in self._units():
            if unit not in self.noise:
                runs = (self.bench.run(self._nudged(weights, unit)) for _ in range(2))
                self.noise[unit] = max(self._relative_change(run, reference) for run in runs)
            # Where float32 was seen, no less than its rounding changes is no news.
            is_known = unit <= FLOAT32 and self._coarsest() != torch.float64 and error <= self.noise[unit]
            if is_known or (
                error <= ROUNDING * self.noise[unit]
                and not self._is_steady(weights, choices, 2 * unit if unit > FLOAT32 else 64 * unit)
            ):
                self.rounded = max(self.rounded, error)
                return True
        return False

    def _coarsest(self) -> torch.dtype:
        return min((self.bench.coarsest or self.bench.dtype, self.bench.dtype), key=FLOATS.index)

    def _units(self) -> list[float]:
        """Relative rounding errors to look for: of the coarsest dtype that was seen, and of float32, which a forward
        pass may use unseen (in numpy)."""
        seen = self._coarsest()
        dtypes = dict.fromkeys((seen, min((seen, torch.float32), key=FLOATS.index)))
        return [torch.finfo(dtype).eps for dtype in dtypes]

    def _nudged(self, weights: Weights, unit: float) -> Weights:
        """Weights with a relative change of about `unit` in every entry."""

        def nudged(tensor: Tensor) -> Tensor:
            factors = torch.from_numpy(np.asarray(1.0 + unit * self.rng.standard_normal(tuple(tensor.shape))))
            return (tensor.to("cpu", torch.promote_types(tensor.dtype, torch.float64)) * factors).to(tensor)

        return {name: nudged(tensor) if is_number(tensor) else tensor for name, tensor in weights.items()}

    def _is_steady(self, weights: Weights, choices: Choices, distance: float) -> bool:
        """Whether a permutation changes the outputs in one way, at several weights nearby."""
        changes = []
        for _ in range(DRAWS):
            nearby = self._nudged(weights, distance)
            pairs = self._changes(self._permuted(nearby, choices), self.bench.run(nearby))
            changes.append(torch.cat([(change / scale).flatten() for change, scale in pairs]))
        stacked = torch.stack(changes)
        each = float(stacked.square().sum(dim=1).mean().sqrt())
        return not float(stacked.mean(dim=0).norm()) <= STEADY * each

    def _blame(
        self, weights: Weights, reference: list[Tensor], roots: list[str], together: Choices, error: float
    ) -> None:
        """Raise SymmetryError with the first group that breaks the function by itself."""
        if self.bench.is_seeded:
            raise CannotVerifyError(
                f"model cannot be checked: its forward pass is random, and with the same seed before every run the "
                f"outputs change by {error:.2g}, which the noise may do as well as the spec"
            )
        note = "; ".join(self.notes())
        for root in roots:
            choices = {name: rows for name, rows in together.items() if self.bound.root_of(name) == root}
            alone = self._relative_change(self._permuted(weights, choices), reference)
            if not alone <= self.tolerance and not self._is_rounding(weights, choices, reference, alone):
                raise SymmetryError(root, alone, self._users([root]), note)
        raise SymmetryError(", ".join(roots), error, self._users(roots), note)

    def _users(self, roots: Sequence[str]) -> list[str]:
        named: Mapping[str, Any] = {**self.bound.axes, **self.bound.unsaved}
        return [name for name, axes in named.items() if any(g in roots for axis in axes for g in axis.groups)]


def _random_rows(shape: tuple[int, ...], rng: np.random.Generator, is_forced: bool) -> NDArray[np.int64]:
    """Random permutations; if forced, none of them the identity where there is another."""
    identity = np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape)
    rows = rng.permuted(identity, axis=-1)
    if not is_forced:
        return rows
    still = (rows == identity).all(axis=-1, keepdims=True)
    return np.where(still, np.roll(rows, 1, axis=-1), rows)
