"""Gain matrices: what putting unit j of model b opposite unit i of model a adds to <theta_a, pi(theta_b)>."""

from .op import gain_candidates, gain_matrices, gain_matrix, gain_matrix_and_candidates
from .terms import GainCandidates, Term, units_first

__all__ = [
    "GainCandidates",
    "Term",
    "gain_candidates",
    "gain_matrices",
    "gain_matrix",
    "gain_matrix_and_candidates",
    "units_first",
]
