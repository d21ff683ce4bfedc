"""Measurements of what a matching did, and of why it works."""

from .barrier import BarrierCurve, loss_barrier
from .distances import DistanceDecomposition, LayerDistance, distance_decomposition
from .evaluation import evaluate
from .factors import LayerFactors, SpectralFactors, singular_factors
from .landscape import LossLandscape, loss_landscape
from .pairwise import pairwise_barriers
from .sharpness import HessianTrace, hessian_trace
from .spectral import LayerAlignment, SpectralAlignment, spectral_alignment
from .taylor import EndExpansion, TaylorBarrier, taylor_barrier
from .temperature import TemperatureFit, Tempered, calibrate_temperature
from .vectors import InputAlignment, LayerInputs, VectorCosines, input_alignment, vector_cosines

__all__ = [
    "BarrierCurve",
    "DistanceDecomposition",
    "EndExpansion",
    "HessianTrace",
    "InputAlignment",
    "LayerAlignment",
    "LayerDistance",
    "LayerFactors",
    "LayerInputs",
    "LossLandscape",
    "SpectralAlignment",
    "SpectralFactors",
    "TaylorBarrier",
    "TemperatureFit",
    "Tempered",
    "VectorCosines",
    "calibrate_temperature",
    "distance_decomposition",
    "evaluate",
    "hessian_trace",
    "input_alignment",
    "loss_barrier",
    "loss_landscape",
    "pairwise_barriers",
    "singular_factors",
    "spectral_alignment",
    "taylor_barrier",
    "vector_cosines",
]
