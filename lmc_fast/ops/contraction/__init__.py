"""Products of a tensor [before, units, after] with a vector, in float64, over its units or over all else."""

from .op import over_others, over_units

__all__ = ["over_others", "over_units"]
