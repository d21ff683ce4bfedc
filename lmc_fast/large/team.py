"""Who works on a run: one process, or several that say the same things in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Team"]

T = TypeVar("T")


class Team:
    """One process by itself; what several have in common is in `Ranks`.

    All ranks of a run go through the same steps. What they tell each other is as JSON has it, and what comes of it is
    the same on all of them.

    Attributes:
        rank, size: which of how many.
        device: where this one computes gains; None: the CPU.
    """

    rank = 0
    size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self._posted: dict[str, Any] = {}

    @property
    def is_first(self) -> bool:
        """Whether this one speaks and writes what there is one of."""
        return self.rank == 0

    def told(self, what: Callable[[], Any]) -> Any:
        """What the first rank has found."""
        return what()

    def gathered(self, mine: Any) -> list[Any]:
        """What each rank has found, by rank."""
        return [mine]

    def after_first(self, work: Callable[[], T]) -> T:
        """What `work` gives: it is done by the first rank, and then by the others, which find what that has written."""
        if self.is_first:
            found = work()
            self.gathered(None)
            return found
        self.gathered(None)
        return work()

    def post(self, key: str, found: Any) -> None:
        """Leave something for all to take, each once."""
        self._posted[key] = found

    def has(self, key: str) -> bool:
        """Whether something has been left."""
        return key in self._posted

    def take(self, key: str) -> Any:
        """What was left, once it is there."""
        return self._posted.pop(key)

    def summed(
        self,
        key: str,
        mine: Tensor | None,
        ranks: Sequence[int],
        home: int,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor | None:
        """The sum of what some ranks have, at one of them; None elsewhere. To be called by these alone.

        Args:
            key: the same for all of them, and never used again.
            mine: this rank's; None where it adds nothing.
            ranks: who adds something. Two or more: sums of any order are the same.
            home: who gets the sum, and may add nothing.
            shape, dtype: of the sum.
        """
        return mine

    def failed(self, error: BaseException) -> BaseException:
        """What is to be raised, by all ranks, after this one has met with `error`."""
        return error

    def outlast(self) -> None:
        """Wait for the others to leave a run that has failed; not for long."""
