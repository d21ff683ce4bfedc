"""What a matching of several models returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import check_int, fail_type
from ..._models import ModelT
from ..._results import Result, axes_to_draw_on
from ...symmetry import Permutations
from ...symmetry.transforms import Choice, between
from ...symmetry.verification import Verification
from .matching import Sweep, history_from, history_to
from .saved import Parts, checked, choice_from, choice_to, expected_choice, read_parts, what_of, write_parts
from .verified import verification_from, verification_line, verification_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ManyMatching"]

Array = NDArray[np.float64]

FORMAT = "lmc_fast.ManyMatching"
_DISTANCES = ("l2_before", "l2_after")


@dataclass(frozen=True, eq=False)
class ManyMatching(Result):
    """What carries each of several models into a common frame, and how that was found.

    The frame is that of the reference, which keeps its units where they are. Maps between two models are compositions,
    so that going around any cycle of models is the identity: exactly of permutations, up to rounding of other kinds.

    Attributes:
        permutations: for each model what carries it into the common frame; `Transforms` where groups of other kinds
            than permutations take part.
        objective: sum over pairs k < m of <pi_k(theta_k), pi_m(theta_m)> over all weights, summed in float64.
        l2_before, l2_after: float64 [models, models], ||theta_k - theta_m|| and ||pi_k(theta_k) - pi_m(theta_m)||.
        reference: which model the frame is of.
        converged: whether the search came to its end within the sweeps or epochs allowed.
        history: one entry a sweep or an epoch.
        seconds: wall-clock time of the search.
        method: its name.
        verified, why_not_verified: as of `Matching`.
    """

    permutations: tuple[Choice, ...] = field(repr=False)
    objective: float
    l2_before: Array = field(repr=False)
    l2_after: Array = field(repr=False)
    reference: int
    converged: bool
    history: tuple[Sweep, ...] = field(repr=False)
    seconds: float
    method: str
    verified: Verification | None = field(default=None, repr=False)
    why_not_verified: str = field(default="", repr=False)

    def __len__(self) -> int:
        return len(self.permutations)

    def pairwise(self, i: int, j: int) -> Choice:
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
        return between(self.permutations[i], self.permutations[j])

    def apply(self, models: Sequence[ModelT]) -> list[ModelT]:
        """New models, each carried into the common frame.

        They compute the same functions where the spec keeps them, which is known only of a spec that was verified.

        Raises:
            TypeError: `models` is no sequence of modules or state dicts.
            ValueError: not as many as were matched, or one that does not fit the spec.
        """
        if isinstance(models, (str, dict)) or not isinstance(models, Sequence):
            fail_type("models", "a sequence of models", models)
        if len(models) != len(self):
            raise ValueError(f"models must be the {len(self)} that were matched, got {len(models)}")
        return [permutations.apply(model) for permutations, model in zip(self.permutations, models, strict=True)]

    def plot(self, axes: Axes | None = None, *, names: Sequence[str] | None = None) -> Axes:
        """Draw how far each two models lie apart: before above the diagonal, after below it.

        Args:
            axes: matplotlib's; None: those of a new figure.
            names: of the models; None: their numbers.

        Raises:
            ValueError: not one name for each model.
            ImportError: without matplotlib (extra ``demo``).
        """
        told = [str(k) for k in range(len(self))] if names is None else list(names)
        if len(told) != len(self):
            raise ValueError(f"names must be one for each of the {len(self)} models, got {names!r}")
        axes = axes_to_draw_on(axes, width=1.6 + 0.9 * len(self), height=0.8 + 0.8 * len(self))
        shown = np.triu(self.l2_before, 1) + np.tril(self.l2_after, -1)
        np.fill_diagonal(shown, np.nan)
        image = axes.imshow(shown, cmap="viridis", vmin=0.0)
        half = np.nanmax(shown, initial=0.0) / 2
        for i, j in np.argwhere(~np.isnan(shown)):
            color = "white" if shown[i, j] <= half else "black"
            axes.text(j, i, f"{shown[i, j]:.3g}", ha="center", va="center", color=color)
        axes.set(xlabel="before above, after below the diagonal")
        axes.set_xticks(range(len(self)), told)
        axes.set_yticks(range(len(self)), told)
        axes.figure.colorbar(image, ax=axes, label="L2 distance")
        return axes

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the matching as one safetensors file, aside and then renamed: there is never half a file.

        The tensors are model k's permutations, int64 under ``permutation.{k}.{group}`` (or its elements, under
        ``element.{k}.{group}``), and the distances, float64 under ``l2_before`` and ``l2_after``; the spec (as by
        `PermutationSpec.to_json`) and the rest are in the file's metadata.

        Args, Raises: as for `Matching.save`.
        """
        tensors: dict[str, Tensor] = {}
        for k, choice in enumerate(self.permutations):
            tensors |= choice_to(f"{k}.", choice)
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _DISTANCES}
        result = {name: getattr(self, name) for name in _NUMBERS} | {"history": history_to(self.history)}
        result |= verification_to(self.verified, self.why_not_verified)
        write_parts(path, FORMAT, self.permutations[0].spec, tensors, result, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> ManyMatching:
        """Read what `save` wrote, and check it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: truncated, no matching of several models, of another version, or one whose parts do not fit
                each other; the message names the file.
            ImportError: safetensors is not installed; the message names the extra.
        """
        return read_parts(path, FORMAT, _read)

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
        first = self.permutations[0]
        moved = first.summary
        if isinstance(first, Permutations):
            counts = ", ".join(str(p.moved) for p in self.permutations if isinstance(p, Permutations))
            moved = f"of {first.total} units in {len(first)} groups moved: {counts}"
        return (
            f"{len(self)} models, {self.method}: {state} after {steps} in {self.seconds:.2f} s\n"
            f"  mean L2 distance {before:.4g} -> {after:.4g} ({100 * self.l2_reduction:.1f} % less)\n"
            f"  objective {self.objective:.6g}; {moved} (the frame is model {self.reference}'s)\n"
            f"  {verification_line(self.verified, self.why_not_verified)}"
        )


# Attributes of a ManyMatching that are written as they are, and what each must be.
_NUMBERS: dict[str, type] = {
    "objective": float,
    "reference": int,
    "converged": bool,
    "seconds": float,
    "method": str,
}


def _read(parts: Parts) -> ManyMatching:
    """A matching from the parts of its file; TypeError or ValueError says what is wrong with them."""
    verification = verification_from(parts.result)
    result = checked(parts.result, "result", {**_NUMBERS, "history": list})
    history = history_from(result.pop("history"))
    tensors = parts.tensors
    before = tensors.get("l2_before")
    count = 0 if before is None or before.ndim == 0 else before.shape[0]
    expected = dict.fromkeys(_DISTANCES, torch.float64)
    for k in range(count):
        expected |= expected_choice(f"{k}.", parts.spec)
    parts.check_tensors(expected, f"one {what_of(parts.spec)} for each model and group, and the distances")
    for name in _DISTANCES:
        if tensors[name].shape != (count, count) or count == 0:
            raise ValueError(f"{name} must be [models, models], got {tuple(tensors[name].shape)}")
    if not 0 <= result["reference"] < count:
        raise ValueError(f"result: reference must be one of the {count} models, got {result['reference']}")
    return ManyMatching(
        permutations=tuple(choice_from(f"{k}.", parts) for k in range(count)),
        l2_before=tensors["l2_before"].numpy(),
        l2_after=tensors["l2_after"].numpy(),
        history=history,
        **result,
        **verification,
    )
