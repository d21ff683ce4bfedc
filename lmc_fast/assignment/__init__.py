"""The linear assignment problem, exact and dense: one matrix, a sequence of them, a batch, and the proof."""

from .batched import linear_sum_assignment_batched
from .candidates import Candidates
from .gap import assignment_gap
from .single import linear_sum_assignment
from .solver import AssignmentSolver

__all__ = [
    "AssignmentSolver",
    "Candidates",
    "assignment_gap",
    "linear_sum_assignment",
    "linear_sum_assignment_batched",
]
