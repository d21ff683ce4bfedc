"""The names of the package rebasin (snimu/rebasin, by Sebastian Müller, under the MIT licence).

Nothing of its text is here. ``from lmc_fast.compat.rebasin import PermutationCoordinateDescent, MergeMany,
interpolation`` in place of ``from rebasin import ...``.

The same: names, call forms, that models are changed in place, and the files that are written. Different: what may be
permuted is found by `lmc_fast.derive_spec`, so that running statistics, flattened maps, depthwise convolutions, norms
in groups, and biases come out right; the search is this package's; BatchNorm is estimated over different batches, where
the original takes the first one again and again; arguments that do not fit are told as TypeError or ValueError.
"""

from . import interpolation, utils
from .descent import MergeMany, PermutationCoordinateDescent

__all__ = ["MergeMany", "PermutationCoordinateDescent", "interpolation", "utils"]
