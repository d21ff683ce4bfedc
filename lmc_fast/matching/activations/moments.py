"""Means, variances and cross-covariances over samples that come in batches, in one pass.

Each batch is centred by its own mean, and what is known so far is joined with it (Chan, Golub, LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", COMPSTAT 1982): nothing cancels, however far the
means are from zero. Sums are kept in float64; the products of one batch are made in float32, or in float64 where
the samples are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..._models import accumulate_dtype
from ...ops.gain_matrix import units_first
from ...symmetry.views import Leaf, Units

__all__ = ["Centred", "CrossMoments", "CrossSums", "Moments", "Part", "Some", "means_of", "without_rounding"]

# A spread of fewer roundings of the mean than this is taken for that of a constant.
ROUNDINGS = 4


@dataclass(frozen=True)
class Centred:
    """One batch of samples: mean, float64 [entries], and what is left, float32 or float64 [entries, samples]."""

    mean: Tensor
    rest: Tensor

    @classmethod
    def of(cls, samples: Tensor) -> Centred:
        """From [entries, samples], which are copied."""
        samples = samples.to(accumulate_dtype(samples.dtype))
        mean = samples.mean(dim=1, dtype=torch.float64)
        return cls(mean, samples - mean.to(samples.dtype).unsqueeze(1))

    def to(self, device: torch.device | None) -> Centred:
        """The same on a device; None: where it is."""
        return self if device is None else Centred(self.mean.to(device), self.rest.to(device))


class Moments:
    """Mean and standard deviation of each entry.

    Attributes:
        mean: float64 [entries].
        squares: float64 [entries], sums of squared deviations from the mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    @classmethod
    def of(cls, samples: Tensor) -> Moments:
        """Those of a batch: [entries, samples]."""
        batch, moments = Centred.of(samples), cls()
        moments.count, moments.mean, moments.squares = batch.rest.shape[1], batch.mean, _row_squares(batch.rest)
        return moments

    def add(self, samples: Tensor) -> None:
        """Take up a batch: [entries, samples]."""
        self.join(Moments.of(samples))

    def join(self, others: Moments) -> None:
        """Take up samples that have been summed apart."""
        if others.count == 0:
            return
        shift = others.mean - self.mean.to(others.mean.device)
        joined = self.count * others.count / (self.count + others.count)
        self.squares = self.squares.to(shift.device) + others.squares + joined * shift.square()
        self.count += others.count
        self.mean = self.mean.to(shift.device) + shift * (others.count / self.count)

    @property
    def deviation(self) -> Tensor:
        """Float64 [entries], over the number of samples; 0 for what differs from a constant by rounding only."""
        return _spread(self.squares, self.count * self.mean.square()).div(max(1, self.count)).sqrt()


@dataclass
class CrossSums:
    """Sums of products of centred activations of one group, over all its places; float64.

    Where an element of the group's kind takes several entries of a unit together (a plane), each of them is a row.

    Attributes:
        cross: [units of a, units of b].
        squares_a, squares_b: [units], of each model by itself.
        dtype: that products were made in.
    """

    cross: Tensor
    squares_a: Tensor
    squares_b: Tensor
    dtype: torch.dtype = torch.float64

    @classmethod
    def zeros(cls, units_a: int, units_b: int, device: torch.device) -> CrossSums:
        """Of nothing yet."""
        cross, squares_a, squares_b = (
            torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((units_a, units_b), units_a, units_b)
        )
        return cls(cross, squares_a, squares_b)

    def plus(self, other: CrossSums) -> CrossSums:
        """The sums over both, known as exactly as these."""
        squares_a, squares_b = self.squares_a + other.squares_a, self.squares_b + other.squares_b
        return CrossSums(self.cross + other.cross, squares_a, squares_b, self.dtype)

    def correlation(self) -> Tensor:
        """[units of a, units of b]; 0 where a unit does not vary."""
        return self.scaled(self.squares_a, self.squares_b)

    def scaled(self, squares_a: Tensor, squares_b: Tensor) -> Tensor:
        """The products over the roots of these squares of each model's units; 0 where those are 0."""
        return self.cross * _inverse_root(squares_a).unsqueeze(1) * _inverse_root(squares_b)


# For a group the units of a and of b that are looked at: int64 each.
Some = Mapping[Units, tuple[Tensor, Tensor]]


class Part:
    """The entries of a spot that belong to the units of one leaf.

    Args:
        leaf: of the spot's axis.
        numbers: of each entry at the spot its number along the axis, -1 for none; None: the whole axis in its order.
        size: entries of the axis.
        entries: of each unit that are rows of their own; they are the outer or the inner ones of the innermost group.
    """

    def __init__(self, leaf: Leaf, numbers: Tensor | None, size: int, entries: int = 1) -> None:
        self.units: Units = leaf.group
        self._leaf = replace(leaf, axis=0)
        self._dims = tuple(
            dim
            for level, at in zip(leaf.turning, self._leaf.unit_dims, strict=True)
            # As elements take them: the innermost group's inner entries, or else those of its views.
            for dim in ((at, 2 * level + 2, 2 * level) if entries > 1 and level == len(leaf.levels) - 1 else (at,))
        )
        self._at: Tensor | None = None
        if numbers is not None:
            at = torch.full((size,), -1)
            here = numbers >= 0
            at[numbers[here]] = here.nonzero().squeeze(1)
            at = units_first(self._leaf.view(at), self._dims)
            # [units, what each of them holds there]
            self._at = at[:, (at >= 0).all(dim=0)]

    @property
    def is_there(self) -> bool:
        """Whether all units show up at the spot."""
        return self._at is None or self._at.shape[1] > 0

    def rows(self, entries: Tensor) -> Tensor:
        """[entries, samples] -> [units (and their entries), rest]."""
        if self._at is None:
            return units_first(self._leaf.view(entries), self._dims)
        rows = entries.index_select(0, self._at.flatten().to(entries.device))
        return rows.reshape(self._at.shape[0], -1)


class CrossMoments:
    """Means of one spot in both models, and what its batches add to the sums of the groups on it.

    Args:
        parts: of the spot.
        some: the units to look at, by group; all of those left out.
    """

    def __init__(self, parts: Sequence[Part], some: Some | None = None) -> None:
        self.parts = list(parts)
        self.some = {} if some is None else some
        self.count = 0
        self.mean_a = self.mean_b = torch.zeros((), dtype=torch.float64)

    def add(self, a: Centred, b: Centred, sums: dict[Units, CrossSums]) -> None:
        """Take up the same samples of both models.

        Each entry of a unit is centred by its own mean; the products of all its entries add up.
        """
        count = a.rest.shape[1]
        if count == 0:
            return
        shift_a, shift_b = a.mean - self.mean_a.to(a.mean.device), b.mean - self.mean_b.to(b.mean.device)
        joined = self.count * count / (self.count + count)
        dtype = torch.promote_types(a.rest.dtype, b.rest.dtype)
        for part in self.parts:
            rest_a, rest_b = self._rows(part, a.rest.to(dtype), b.rest.to(dtype))
            if part.units not in sums:
                sums[part.units] = CrossSums.zeros(rest_a.shape[0], rest_b.shape[0], rest_a.device)
            of = sums[part.units]
            of.dtype = torch.float32 if dtype == torch.float32 else of.dtype
            moved_a, moved_b = self._rows(part, shift_a.unsqueeze(1), shift_b.unsqueeze(1))
            of.cross += rest_a @ rest_b.T
            of.cross.addmm_(moved_a, moved_b.T, alpha=joined)
            of.squares_a += _row_squares(rest_a) + joined * _row_squares(moved_a)
            of.squares_b += _row_squares(rest_b) + joined * _row_squares(moved_b)
        self.count += count
        self.mean_a = self.mean_a.to(shift_a.device) + shift_a * (count / self.count)
        self.mean_b = self.mean_b.to(shift_b.device) + shift_b * (count / self.count)

    def means(self, part: Part) -> CrossSums:
        """What centring took out of the sums of one of the parts: the products of both means, over all samples."""
        means_a, means_b = self._rows(part, self.mean_a.unsqueeze(1), self.mean_b.unsqueeze(1))
        cross = self.count * means_a @ means_b.T
        return CrossSums(cross, self.count * _row_squares(means_a), self.count * _row_squares(means_b))

    def _rows(self, part: Part, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        rows_a, rows_b = part.rows(a), part.rows(b)
        if part.units in self.some:
            some_a, some_b = self.some[part.units]
            return rows_a[some_a], rows_b[some_b]
        return rows_a, rows_b


def means_of(places: Iterable[CrossMoments]) -> dict[Units, CrossSums]:
    """What centring took out of the sums, over all places."""
    found: dict[Units, CrossSums] = {}
    for place in places:
        for part in place.parts if place.count else ():
            means = place.means(part)
            found[part.units] = found[part.units].plus(means) if part.units in found else means
    return found


def without_rounding(sums: CrossSums, means: CrossSums) -> CrossSums:
    """The sums, with the squares of units that do not vary beyond rounding at exactly 0."""
    squares_a, squares_b = _spread(sums.squares_a, means.squares_a), _spread(sums.squares_b, means.squares_b)
    return CrossSums(sums.cross, squares_a, squares_b, sums.dtype)


def _spread(squares: Tensor, means: Tensor) -> Tensor:
    """Sums of squared deviations, 0 where they are no more than the rounding of a constant.

    Args:
        squares: the sums.
        means: the squared means, summed over as many samples.
    """
    rounding = (ROUNDINGS * torch.finfo(torch.float32).eps) ** 2
    return torch.where(squares > rounding * means, squares, torch.zeros_like(squares))


def _row_squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def _inverse_root(squares: Tensor) -> Tensor:
    return torch.where(squares > 0, squares, torch.inf).rsqrt()
