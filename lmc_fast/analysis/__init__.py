"""Measurements of what a matching did."""

from .barrier import BarrierCurve, evaluate, loss_barrier
from .pairwise import pairwise_barriers

__all__ = ["BarrierCurve", "evaluate", "loss_barrier", "pairwise_barriers"]
