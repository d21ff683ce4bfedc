"""Measurements of what a matching did."""

from .barrier import BarrierCurve, evaluate, loss_barrier

__all__ = ["BarrierCurve", "evaluate", "loss_barrier"]
