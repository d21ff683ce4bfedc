"""What is known of a spec that was verified."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verification"]


@dataclass(frozen=True)
class Verification:
    """That a spec was seen to keep a model's function, and how.

    Attributes:
        by: the function that checked it.
        version: of lmc_fast.
        model: name of the model's class.
        inputs: shapes of the example inputs.
        error: largest change of an output entry, relative to the largest output entry.
        precision: the dtype that the forward pass was run in.
        note: what else was found; empty where there is nothing to say.
    """

    by: str
    version: str
    model: str
    inputs: str
    error: float
    precision: str
    note: str = ""

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return (
            f"verified by {self.by} on {self.model}, inputs {self.inputs}, largest change {self.error:.2g} "
            f"in {self.precision}{note}"
        )
