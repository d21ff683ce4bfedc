"""Gain matrices: what putting unit j of model b opposite unit i of model a adds to <theta_a, pi(theta_b)>."""

from .op import gain_matrices, gain_matrix
from .terms import Term, units_first

__all__ = ["Term", "gain_matrices", "gain_matrix", "units_first"]
