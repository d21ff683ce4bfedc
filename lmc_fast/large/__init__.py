"""Checkpoints too large to hold, matched and merged on disk: planned, read by memory map, journalled."""

from .merge import merge_checkpoints, plan_merge
from .options import MergeResult, Options
from .plan import Plan
from .rebase import rebase_checkpoints

__all__ = ["MergeResult", "Options", "Plan", "merge_checkpoints", "plan_merge", "rebase_checkpoints"]
