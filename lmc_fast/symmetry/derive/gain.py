"""A norm's gain, and what reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch.fx import Node

from .lines import source_line
from .look import packet_name
from .places import Place
from .term import Pin

__all__ = ["Gain", "Read"]


@dataclass
class Read:
    """A linear map that reads a gain: its weight, the axis that is summed over, its bias, and the operation."""

    weight: Node
    axis: int
    bias: Node | None
    place: Place
    user: Node


@dataclass
class Gain:
    """A norm's gain in one graph or several.

    Attributes:
        weight: its name.
        bias: of the same norm, or None.
        neutral: the weight of a gain of 1.
        uses: operations that multiply by it, each with the arguments that are the gain there.
        adds: operations that add the bias, with the arguments.
        outputs: what has been multiplied.
        reads: all that reads it.
        why: why it cannot be folded; None where it can.
    """

    weight: str
    bias: str | None = None
    neutral: float = 1.0
    uses: dict[Node, set[Node]] = field(default_factory=dict)
    adds: dict[Node, set[Node]] = field(default_factory=dict)
    outputs: list[Node] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    why: Pin | None = None
    keeps_bias: bool = False

    def refuse(self, node: Node, text: str) -> None:
        if self.why is None:
            name = packet_name(node.target) if node.op == "call_function" else node.op
            why = f"gain {self.weight!r} acts entry by entry and cannot be folded: {text}"
            self.why = Pin(name, source_line(node), why)
