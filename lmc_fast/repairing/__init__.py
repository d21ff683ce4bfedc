"""Statistics that a merged model needs anew: BatchNorm re-estimation, and REPAIR for every hidden unit."""

from .batchnorm import has_batchnorm, reestimate_batchnorm, reestimate_in_place
from .units import repair

__all__ = ["has_batchnorm", "reestimate_batchnorm", "reestimate_in_place", "repair"]
