"""What a matching method returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._models import ModelT
from ..symmetry import Permutations

__all__ = ["Matching", "Sweep"]


@dataclass(frozen=True)
class Sweep:
    """One pass over the groups.

    Attributes:
        objective: <theta_a, pi(theta_b)> after it: that of the start, summed in float64, and what was gained since.
        moved: how many units it put elsewhere.
        solved: how many groups it solved (a group whose neighbours stood still is not solved again).
        seconds: wall-clock time.
    """

    objective: float
    moved: int
    solved: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Matching:
    """Permutations of model b's units that lay it over model a, and how they were found.

    Attributes:
        permutations: the choice for every group.
        objective: <theta_a, pi(theta_b)> over all weights, summed in float64.
        l2_before, l2_after: ||theta_a - theta_b|| and ||theta_a - pi(theta_b)|| over the same weights.
        converged: whether a whole sweep brought no gain (a local optimum), within the sweeps allowed.
        history: one entry a sweep.
        seconds: wall-clock time of the search.
        method: its name.
    """

    permutations: Permutations = field(repr=False)
    objective: float
    l2_before: float
    l2_after: float
    converged: bool
    history: tuple[Sweep, ...] = field(repr=False)
    seconds: float
    method: str

    @property
    def l2_reduction(self) -> float:
        """1 - l2_after / l2_before; 0 where the models were equal to begin with."""
        return 1.0 - self.l2_after / self.l2_before if self.l2_before > 0 else 0.0

    def apply(self, model_b: ModelT) -> ModelT:
        """A new model: `model_b` with its units permuted; the same function, laid over model a.

        Raises:
            TypeError: `model_b` is neither a module nor a state dict.
            ValueError: it does not fit the spec of the matching.
        """
        return self.permutations.apply(model_b)

    def __str__(self) -> str:
        state = "converged" if self.converged else "not converged"
        moved, total = self.permutations.moved, self.permutations.total
        return (
            f"{self.method}: {state} after {len(self.history)} sweeps in {self.seconds:.2f} s\n"
            f"  L2 distance {self.l2_before:.4g} -> {self.l2_after:.4g} ({100 * self.l2_reduction:.1f} % less)\n"
            f"  objective {self.objective:.6g}; {moved} of {total} units moved, in {len(self.permutations)} groups"
        )
