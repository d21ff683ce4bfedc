"""What operations do to axes, a family a file; importing this registers all."""

from . import (
    convolutions,
    elementwise,
    factories,
    indexing,
    joining,
    linalg,
    norms,
    products,
    recurrent,
    reductions,
    shapes,
    transforms,
)

__all__ = [
    "convolutions",
    "elementwise",
    "factories",
    "indexing",
    "joining",
    "linalg",
    "norms",
    "products",
    "recurrent",
    "reductions",
    "shapes",
    "transforms",
]
