"""What a matching method returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..._checks import check_type
from ..._models import ModelT
from ..._results import Result, axes_to_draw_on
from ...symmetry import Permutations, Transforms
from ...symmetry.mixing import SoftPermutations
from ...symmetry.transforms import Choice
from ...symmetry.verification import Verification
from .saved import Parts, checked, choice_from, choice_to, expected_choice, read_parts, what_of, write_parts
from .verified import verification_from, verification_line, verification_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Match", "Matching", "Sweep", "choice_of", "history_from", "history_to"]

FORMAT = "lmc_fast.Matching"


@dataclass(frozen=True)
class Sweep:
    """One pass over the groups.

    Attributes:
        objective: <theta_a, pi(theta_b)> after it: that of the start, summed in float64, and what was gained since. Of
            search="leading", that of the copies that it looks at.
        moved: how many units it put elsewhere.
        solved: how many groups it solved (a group whose neighbours stood still is not solved again).
        seconds: wall-clock time.
    """

    objective: float
    moved: int
    solved: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Matching(Result):
    """What lays model b over model a, and how that was found.

    Attributes:
        choice: what every group's units do: `Permutations`, or `Transforms` where groups of other kinds take part.
        objective: <theta_a, pi(theta_b)> over all weights, summed in float64.
        l2_before, l2_after: ||theta_a - theta_b|| and ||theta_a - pi(theta_b)|| over the same weights.
        converged: whether a whole sweep brought no gain (a local optimum), within the sweeps allowed.
        history: one entry a sweep.
        seconds: wall-clock time of the search.
        method: its name.
        verified: how the spec was verified to keep the function, by `verify_spec` or by the method where that has a
            module and example inputs; None where it was not.
        why_not_verified: what stood in the way of that, if anything.
        soft: the doubly stochastic matrices at the end of `sinkhorn_matching`, where they were asked for; not saved.
    """

    derived: ClassVar[tuple[str, ...]] = ("l2_reduction",)

    choice: Choice = field(repr=False)
    objective: float
    l2_before: float
    l2_after: float
    converged: bool
    history: tuple[Sweep, ...] = field(repr=False)
    seconds: float
    method: str
    verified: Verification | None = field(default=None, repr=False)
    why_not_verified: str = field(default="", repr=False)
    soft: SoftPermutations | None = field(default=None, repr=False)

    @property
    def permutations(self) -> Permutations:
        """`choice`, of a spec of permutations; ValueError where groups of other kinds take part."""
        self.choice.spec.check_only_permutes("Matching.permutations")
        return Permutations(self.choice.spec, self.choice) if isinstance(self.choice, Transforms) else self.choice

    @property
    def l2_reduction(self) -> float:
        """1 - l2_after / l2_before; 0 where the models were equal to begin with."""
        return 1.0 - self.l2_after / self.l2_before if self.l2_before > 0 else 0.0

    def apply(self, model_b: ModelT) -> ModelT:
        """A new model: `model_b` with its units moved, laid over model a.

        It computes the same function where the spec keeps it, which is known only of a spec that was verified.

        Raises:
            TypeError: `model_b` is neither a module nor a state dict.
            ValueError: it does not fit the spec of the matching.
        """
        return self.choice.apply(model_b)

    def rows(self) -> list[dict[str, Any]]:
        """A table for `pandas.DataFrame` or `csv.DictWriter`: one row a sweep."""
        return [{"sweep": k + 1, **row} for k, row in enumerate(history_to(self.history))]

    def plot(self, axes: Axes | None = None, *, label: str | None = None) -> Axes:
        """Draw the objective against sweeps. Raises ImportError without matplotlib (extra ``demo``).

        Args:
            axes: matplotlib's; None: those of a new figure.
            label: for the legend, which is drawn anew.
        """
        axes = axes_to_draw_on(axes)
        sweeps = range(1, len(self.history) + 1)
        axes.plot(sweeps, [sweep.objective for sweep in self.history], marker="o", label=label or self.method)
        axes.set(xlabel="sweep", ylabel="objective")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
        return axes

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the matching as one safetensors file, aside and then renamed: there is never half a file.

        The tensors are the groups' permutations, int64 under ``permutation.{group}``, or their elements, as
        `Transforms` has them, under ``element.{group}``; the spec (as by `PermutationSpec.to_json`) and the rest are in
        the file's metadata.

        Args:
            path: where to; ends in ``.safetensors``.
            overwrite: whether a file that exists may be replaced: to save to one path again, say so.

        Raises:
            FileExistsError: `path` exists, and `overwrite` is False.
            FileNotFoundError: its folder does not exist.
            ValueError: another ending.
            OSError: it cannot be written to, or the disk is full; what was there stays as it was.
        """
        result = {name: getattr(self, name) for name in _NUMBERS}
        write_parts(
            path,
            FORMAT,
            self.choice.spec,
            choice_to("", self.choice),
            {**result, "history": history_to(self.history), **verification_to(self.verified, self.why_not_verified)},
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, path: str | Path) -> Matching:
        """Read what `save` wrote, and check it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: truncated, no matching, of another version, or one whose parts do not fit each other; the
                message names the file.
            ImportError: safetensors is not installed; the message names the extra.
        """
        return read_parts(path, FORMAT, _read)

    def __str__(self) -> str:
        state = "converged" if self.converged else "not converged"
        sweeps = "1 sweep" if len(self.history) == 1 else f"{len(self.history)} sweeps"
        return (
            f"{self.method}: {state} after {sweeps} in {self.seconds:.2f} s\n"
            f"  L2 distance {self.l2_before:.4g} -> {self.l2_after:.4g} ({100 * self.l2_reduction:.1f} % less)\n"
            f"  objective {self.objective:.6g}; {self.choice.summary}\n"
            f"  {verification_line(self.verified, self.why_not_verified)}"
        )


Match = Matching | Permutations | Transforms | None


def choice_of(argument: str, match: object) -> Choice | None:
    """How a match moves its model; None: it stays as it is. TypeError, naming `argument`, for anything else."""
    if match is None:
        return None
    check_type(argument, match, (Matching, Permutations, Transforms), "a Matching, Permutations, Transforms or None")
    assert isinstance(match, (Matching, Permutations, Transforms))
    return match.choice if isinstance(match, Matching) else match


# Attributes of a Matching that are written as they are, and what each must be.
_NUMBERS: dict[str, type] = {
    "objective": float,
    "l2_before": float,
    "l2_after": float,
    "converged": bool,
    "seconds": float,
    "method": str,
}
_SWEEP: dict[str, type] = {"objective": float, "moved": int, "solved": int, "seconds": float}


def _read(parts: Parts) -> Matching:
    """A matching from the parts of its file; TypeError or ValueError says what is wrong with them."""
    parts.check_tensors(expected_choice("", parts.spec), f"one {what_of(parts.spec)} for each group")
    verification = verification_from(parts.result)
    result = checked(parts.result, "result", {**_NUMBERS, "history": list})
    history = history_from(result.pop("history"))
    return Matching(choice=choice_from("", parts), history=history, **result, **verification)


def history_to(history: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Sweeps as JSON has them."""
    return [asdict(sweep) for sweep in history]


def history_from(entries: Sequence[Any]) -> tuple[Sweep, ...]:
    """Sweeps from JSON, each checked."""
    return tuple(Sweep(**checked(sweep, f"history[{i}]", _SWEEP)) for i, sweep in enumerate(entries))
