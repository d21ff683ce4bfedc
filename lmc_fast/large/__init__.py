"""Checkpoints too large to hold, matched and merged on disk: planned, read by memory map, journalled."""

from .merge import MergeResult, Options, merge_checkpoints, plan_merge
from .plan import Plan

__all__ = ["MergeResult", "Options", "Plan", "merge_checkpoints", "plan_merge"]
