"""What a matching method returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..._models import ModelT
from ...symmetry import Permutations
from ...symmetry.verification import Verification
from .saved import Parts, checked, read_parts, write_parts
from .verified import verification_from, verification_line, verification_to

__all__ = ["PREFIX", "Matching", "Sweep", "history_from", "history_to"]

FORMAT = "lmc_fast.Matching"
# Before a group's name, so that no name can be one of the file format's own.
PREFIX = "permutation."


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
        verified: how the spec was verified to keep the function, by `verify_spec` or by the method where that has a
            module and example inputs; None where it was not.
        why_not_verified: what stood in the way of that, if anything.
    """

    permutations: Permutations = field(repr=False)
    objective: float
    l2_before: float
    l2_after: float
    converged: bool
    history: tuple[Sweep, ...] = field(repr=False)
    seconds: float
    method: str
    verified: Verification | None = field(default=None, repr=False)
    why_not_verified: str = field(default="", repr=False)

    @property
    def l2_reduction(self) -> float:
        """1 - l2_after / l2_before; 0 where the models were equal to begin with."""
        return 1.0 - self.l2_after / self.l2_before if self.l2_before > 0 else 0.0

    def apply(self, model_b: ModelT) -> ModelT:
        """A new model: `model_b` with its units permuted, laid over model a.

        It computes the same function where the spec keeps it, which is known only of a spec that was verified.

        Raises:
            TypeError: `model_b` is neither a module nor a state dict.
            ValueError: it does not fit the spec of the matching.
        """
        return self.permutations.apply(model_b)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the matching as one safetensors file, aside and then renamed: there is never half a file.

        The tensors are the groups' permutations, int64 under ``permutation.{group}``; the spec (as by
        `PermutationSpec.to_json`) and the rest are in the file's metadata.

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
        tensors = {PREFIX + group: choice for group, choice in self.permutations.items()}
        write_parts(
            path,
            FORMAT,
            self.permutations.spec,
            tensors,
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
        moved, total = self.permutations.moved, self.permutations.total
        return (
            f"{self.method}: {state} after {sweeps} in {self.seconds:.2f} s\n"
            f"  L2 distance {self.l2_before:.4g} -> {self.l2_after:.4g} ({100 * self.l2_reduction:.1f} % less)\n"
            f"  objective {self.objective:.6g}; {moved} of {total} units moved, in {len(self.permutations)} groups\n"
            f"  {verification_line(self.verified, self.why_not_verified)}"
        )


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
    names = {PREFIX + group: torch.int64 for group in parts.spec.groups}
    parts.check_tensors(names, "one permutation for each group")
    verification = verification_from(parts.result)
    result = checked(parts.result, "result", {**_NUMBERS, "history": list})
    history = history_from(result.pop("history"))
    choices = {group: parts.tensors[PREFIX + group] for group in parts.spec.groups}
    return Matching(permutations=Permutations(parts.spec, choices), history=history, **result, **verification)


def history_to(history: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Sweeps as JSON has them."""
    return [asdict(sweep) for sweep in history]


def history_from(entries: Sequence[Any]) -> tuple[Sweep, ...]:
    """Sweeps from JSON, each checked."""
    return tuple(Sweep(**checked(sweep, f"history[{i}]", _SWEEP)) for i, sweep in enumerate(entries))
