"""Outputs of a model with its units moved and not, at random weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bench import SCALES, Bench, CannotVerifyError, Weights, is_number
from .exact import FLOATS
from .folds import Centre, Fold
from .kinds import KINDS
from .pure import PureForm
from .spec import PermutationSpec
from .transforms import choice_for

__all__ = ["Comparison", "SymmetryError"]

# Two random permutations of more units are never the same.
SMALL = 10
# A change is rounding only if it is at most this many times what rounding of weights and inputs changes,
ROUNDING = 64.0
# and if it is another one at other weights nearby: the mean of so many draws is then much smaller than each.
DRAWS = 8
STEADY = 0.85
FLOAT32 = torch.finfo(torch.float32).eps

Choices = Mapping[str, NDArray[np.int64] | Tensor]
# What is done to weights, of which nothing is to be seen.
Change = Callable[[Weights], Weights]
# What elements of a kind do, to tell people.
DOING = {"permutation": "permuting", "signed": "permuting and negating"}


class SymmetryError(ValueError):
    """A spec permits an element (a permutation, a rotation) that changes the model's outputs, or so does folding.

    Attributes:
        group: name of the group that breaks the function; of a norm that cannot be folded its weight's name.
        error: largest change of an output entry, relative to the largest output entry.
        is_fold: whether it is the folding of a norm.
    """

    def __init__(self, group: str, error: float, told: str, *, is_fold: bool = False) -> None:
        self.group, self.error, self.is_fold = group, error, is_fold
        super().__init__(told)

    @classmethod
    def of_group(
        cls, group: str, error: float, parameters: Sequence[str], note: str = "", kind: str = "permutation"
    ) -> SymmetryError:
        """That of a group, or of several together, on these parameters."""
        hint = "an axis that carries it is missing from the spec or wrong"
        if kind.startswith("orthogonal"):
            hint += ", or something acts on it entry by entry (a norm's gain that is not folded, positions)"
        return cls(
            group,
            error,
            f"{DOING.get(kind, 'turning')} group {group!r} changes the model's outputs by {error:.2g} (relative to the "
            f"largest): {hint}. It is on: {', '.join(parameters)}" + (f" ({note})" if note else ""),
        )

    @classmethod
    def of_fold(cls, fold: Fold | Centre, error: float, note: str = "") -> SymmetryError:
        """That of folding a norm, or of taking a mean out."""
        if isinstance(fold, Centre):
            what, why = f"taking the mean out of {fold.parameter!r}", "not only LayerNorms read what it writes to"
            name = fold.parameter
        else:
            readers = ", ".join(repr(reader.parameter) for reader in fold.readers)
            what, name = f"folding norm {fold.weight!r} into {readers}", fold.weight
            why = "it is read elsewhere, too, or one of these does not read it"
        told = f"{what} changes the model's outputs by {error:.2g} (relative to the largest): {why}"
        return cls(name, error, told + (f" ({note})" if note else ""), is_fold=True)


class Comparison:
    """Outputs with units moved and not, at random weights; of a spec with folds at such in pure form.

    Args:
        bench: of the model; where folding unties weights, of one that is untied.
        tied: of the model as it is, where the other is not; None elsewhere.
    """

    def __init__(
        self,
        bench: Bench,
        bound: PermutationSpec,
        outputs: tuple[list[Tensor], list[Tensor]],
        rng: np.random.Generator,
        tolerance: float,
        tied: Bench | None = None,
    ) -> None:
        self.bench, self.bound, self.rng, self.tolerance, self.tied = bench, bound, rng, tolerance, tied
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
        if self.bound.folds:
            worst = self._fold_change(weights, reference)
            weights = PureForm(self.bound.folds)(weights)
            reference = self.bench.run(weights)
            self.noise.clear()
        for roots in self._parts():
            choices = self._choices(roots, is_forced=trial == 0)
            change = self._moving(choices)
            error = self._relative_change(self.bench.run(change(weights)), reference)
            if not error <= self.tolerance and not self._is_rounding(weights, change, reference, error):
                self._blame(weights, reference, roots, choices, error)
            worst = max(worst, error)
        return worst

    def _fold_change(self, weights: Weights, reference: list[Tensor]) -> float:
        """What untying and folding change; SymmetryError names the norm."""
        worst, pure = 0.0, PureForm(self.bound.folds)
        if self.tied is not None:
            # Each tied weight under all of its names.
            together = {name: weights[pure.untied.get(name, name)] for name in weights}
            worst = self._relative_change(self.bench.run(together), self.tied.run(together))
            if not worst <= self.tolerance and not self._is_rounding(weights, lambda w: w, reference, worst):
                untying = next(f for f in self.bound.folds if isinstance(f, Fold) and f.is_untying)
                raise SymmetryError.of_fold(untying, worst, "where its reader is untied, before anything is folded")
        error = self._relative_change(self.bench.run(pure(weights)), reference)
        if not error <= self.tolerance and not self._is_rounding(weights, pure, reference, error):
            self._check_seeds(error)
            for fold in self.bound.folds:
                alone = PureForm([fold])
                change = self._relative_change(self.bench.run(alone(weights)), reference)
                if not change <= self.tolerance and not self._is_rounding(weights, alone, reference, change):
                    raise SymmetryError.of_fold(fold, change, "; ".join(self.notes()))
            raise SymmetryError.of_fold(self.bound.folds[0], error, "with all the others")
        return max(worst, error)

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
        if self.bound.only_permutes:
            return {name: _random_rows(self.bound.shape(name), self.rng, is_forced) for name in tree}
        found: dict[str, NDArray[np.int64] | Tensor] = {}
        for name in tree:
            kind, shape = self.bound.groups[name].kind, self.bound.shape(name)
            if kind == "permutation":
                found[name] = _random_rows(shape, self.rng, is_forced)
            else:
                found[name] = KINDS[kind].random(shape, self.rng)
        return found

    def _moving(self, choices: Choices) -> Change:
        """What moves weights by these choices."""
        choice, moved = choice_for(self.bound, choices), self._carrying(choices)

        def change(weights: Weights) -> Weights:
            return {
                name: choice.apply_to(name, tensor) if name in moved else tensor for name, tensor in weights.items()
            }

        return change

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

    def _is_rounding(self, weights: Weights, change: Change, reference: list[Tensor], error: float) -> bool:
        """Whether a change of outputs is of the size of rounding, and another one at weights nearby.

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
                and not self._is_steady(weights, change, 2 * unit if unit > FLOAT32 else 64 * unit)
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

    def _is_steady(self, weights: Weights, change: Change, distance: float) -> bool:
        """Whether a change of the weights changes the outputs in one way, at several weights nearby."""
        changes = []
        for _ in range(DRAWS):
            nearby = self._nudged(weights, distance)
            pairs = self._changes(self.bench.run(change(nearby)), self.bench.run(nearby))
            changes.append(torch.cat([(change / scale).flatten() for change, scale in pairs]))
        stacked = torch.stack(changes)
        each = float(stacked.square().sum(dim=1).mean().sqrt())
        return not float(stacked.mean(dim=0).norm()) <= STEADY * each

    def _blame(
        self, weights: Weights, reference: list[Tensor], roots: list[str], together: Choices, error: float
    ) -> None:
        """Raise SymmetryError with the first group that breaks the function by itself."""
        self._check_seeds(error)
        note = "; ".join(self.notes())
        for root in roots:
            tree = {name: rows for name, rows in together.items() if self.bound.root_of(name) == root}
            alone = self._change_by(weights, reference, tree)
            if alone is None:
                continue
            # Of a root with groups of several kinds, which of them.
            for name in tree if len({self.bound.groups[name].kind for name in tree}) > 1 else ():
                change = self._change_by(weights, reference, {name: tree[name]})
                if change is not None:
                    raise SymmetryError.of_group(name, change, self._users([name]), note, self.bound.groups[name].kind)
            raise SymmetryError.of_group(root, alone, self._users([root]), note, self.bound.groups[root].kind)
        raise SymmetryError.of_group(", ".join(roots), error, self._users(roots), note)

    def _change_by(self, weights: Weights, reference: list[Tensor], choices: Choices) -> float | None:
        """The relative change by these choices alone; None where it is nothing, or rounding."""
        change = self._moving(choices)
        error = self._relative_change(self.bench.run(change(weights)), reference)
        is_nothing = error <= self.tolerance or self._is_rounding(weights, change, reference, error)
        return None if is_nothing else error

    def _check_seeds(self, error: float) -> None:
        if self.bench.is_seeded:
            raise CannotVerifyError(
                f"model cannot be checked: its forward pass is random, and with the same seed before every run the "
                f"outputs change by {error:.2g}, which the noise may do as well as the spec"
            )

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
