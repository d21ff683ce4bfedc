"""What a group's units may do beside changing places, in the few questions that everyone asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .learned import Learned

__all__ = ["Kind"]


class Kind(ABC):
    """One kind of group: which elements it has, how they act, and which of them a gain asks for.

    An element is one tensor, with leading dimensions where there is one for each unit of the group's owners. It acts on
    the entries of units, [..., units, entries, k]: `entries` numbers that belong together in each unit, and k columns
    that it treats alike. Elements are orthogonal maps: the inverse transpose of one is itself, so that an axis needs no
    mark of duality, and distances are kept.

    A gain is of all entries with all entries, [..., units, entries, units, entries]: row of model a, column of model
    b, the sum over columns of a[i] * b[j]. The inner product of a with an element's b is linear in it.

    Attributes:
        name: what `Group.kind` calls it.
        entries: how many numbers of a unit an element takes together.
        moves_whole: whether an element puts entries elsewhere and leaves their values, signs apart: then it acts on any
            dtype exactly, and other groups may lie inside its units.
        may_own: whether its group may own others: then an element is the unit at each place, int64 [..., units].
    """

    name: ClassVar[str]
    entries: ClassVar[int] = 1
    moves_whole: ClassVar[bool] = False
    may_own: ClassVar[bool] = False

    @abstractmethod
    def identity(self, shape: tuple[int, ...]) -> Tensor:
        """The element that leaves all as it is, for each of the owners' units.

        Args:
            shape: of the group's choice: units of its owners, outermost first, then its own (`PermutationSpec.shape`).
        """

    @abstractmethod
    def random(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """An element drawn uniformly (by Haar's measure), for each of the owners' units; `shape` as above."""

    @abstractmethod
    def checked(self, argument: str, element: Any, shape: tuple[int, ...]) -> Tensor:
        """A copy of an element on the CPU; TypeError or ValueError, naming `argument`, if it is none of this kind."""

    @abstractmethod
    def best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """The element of largest inner product with each gain, and that inner product.

        Args:
            gain: float [..., units, entries, units, entries], on any device. Its dtype tells how exactly it is known:
                what is no more than rounding says nothing.

        Returns:
            Elements [..., *], and values, float64 [...], on the gain's device.
        """

    def most(self, gain: Tensor) -> Tensor | None:
        """The largest inner product with each gain, as `best` gives it, where it is to be had for less than the element
        that reaches it; None where it is not."""
        return None

    @abstractmethod
    def value(self, gain: Tensor, element: Tensor) -> Tensor:
        """The inner product of gains with elements: float64 [...]."""

    @abstractmethod
    def act(self, element: Tensor, x: Tensor) -> Tensor:
        """A new tensor: x [..., units, entries, k] with its units moved; same shape, dtype and device.

        Leading dimensions of the element are those of x, or broadcast over them. Products are summed in the dtype of x,
        in float32 for float16 and bfloat16.
        """

    @abstractmethod
    def after(self, second: Tensor, first: Tensor) -> Tensor:
        """The composition: it acts as `first`, and then as `second`."""

    @abstractmethod
    def inverse(self, element: Tensor) -> Tensor:
        """The element that undoes this one."""

    @abstractmethod
    def log10_count(self, units: int) -> float:
        """log10 of how many elements there are; of a continuous kind, of those that only change places."""

    def learned(self, element: Tensor, device: torch.device) -> Learned | None:
        """A smooth way through the elements around this one, for learning by gradients; None of a discrete kind."""
        return None
