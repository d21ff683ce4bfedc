"""What a matching of several models returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .._checks import check_int, fail_type
from .._models import ModelT
from ..symmetry import Permutations
from .result import Sweep

__all__ = ["ManyMatching"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ManyMatching:
    """One permutation of each of several models into a common frame, and how they were found.

    The frame is that of the reference, which keeps its units where they are. Maps between two models are compositions
    of integers, so that going around any cycle of models is exactly the identity.

    Attributes:
        permutations: for each model what carries it into the common frame.
        objective: sum over pairs k < m of <pi_k(theta_k), pi_m(theta_m)> over all weights, summed in float64.
        l2_before, l2_after: float64 [models, models], ||theta_k - theta_m|| and ||pi_k(theta_k) - pi_m(theta_m)||.
        reference: which model the frame is of.
        converged: whether the search came to its end within the sweeps or epochs allowed.
        history: one entry a sweep or an epoch.
        seconds: wall-clock time of the search.
        method: its name.
    """

    permutations: tuple[Permutations, ...] = field(repr=False)
    objective: float
    l2_before: Array = field(repr=False)
    l2_after: Array = field(repr=False)
    reference: int
    converged: bool
    history: tuple[Sweep, ...] = field(repr=False)
    seconds: float
    method: str

    def __len__(self) -> int:
        return len(self.permutations)

    def pairwise(self, i: int, j: int) -> Permutations:
        """What carries model j onto model i: ``interpolate(models[i], models[j], 0.5, many.pairwise(i, j))``.

        It is pi_i^-1 after pi_j, whatever the method. "merge_many" and "c2m3" have optimised all pairs, "ste_mm" the
        mixtures of all models; of "pairwise", the maps to the reference are what was optimised, the others follow
        from them.

        Raises:
            TypeError, ValueError: no index of a model.
        """
        for name, index in (("i", i), ("j", j)):
            if not check_int(name, index, 0) < len(self):
                raise ValueError(f"{name} must be one of the {len(self)} models, 0..{len(self) - 1}, got {index}")
        return self.permutations[i].inverse().after(self.permutations[j])

    def apply(self, models: Sequence[ModelT]) -> list[ModelT]:
        """New models, each carried into the common frame; the same functions.

        Raises:
            TypeError: `models` is no sequence of modules or state dicts.
            ValueError: not as many as were matched, or one that does not fit the spec.
        """
        if isinstance(models, (str, dict)) or not isinstance(models, Sequence):
            fail_type("models", "a sequence of models", models)
        if len(models) != len(self):
            raise ValueError(f"models must be the {len(self)} that were matched, got {len(models)}")
        return [permutations.apply(model) for permutations, model in zip(self.permutations, models, strict=True)]

    @property
    def l2_reduction(self) -> float:
        """1 - the mean of l2_after / the mean of l2_before over all pairs; 0 for models that were equal."""
        before = float(self.l2_before.sum())
        return 1.0 - float(self.l2_after.sum()) / before if before > 0 else 0.0

    def __str__(self) -> str:
        state = "converged" if self.converged else "not converged"
        steps = f"{len(self.history)} step{'' if len(self.history) == 1 else 's'}"
        pairs = np.triu_indices(len(self), 1)
        before, after = (float(distances[pairs].mean()) for distances in (self.l2_before, self.l2_after))
        moved = ", ".join(str(permutations.moved) for permutations in self.permutations)
        return (
            f"{len(self)} models, {self.method}: {state} after {steps} in {self.seconds:.2f} s\n"
            f"  mean L2 distance {before:.4g} -> {after:.4g} ({100 * self.l2_reduction:.1f} % less)\n"
            f"  objective {self.objective:.6g}; of {self.permutations[0].total} units in "
            f"{len(self.permutations[0])} groups moved: {moved} (the frame is model {self.reference}'s)"
        )
