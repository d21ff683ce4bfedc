"""What the layers of a torch model carry on their axes, for specs by hand."""

from __future__ import annotations

from .specs import Axes

__all__ = ["batch_norm", "conv", "dense", "norm", "vgg_places"]

# How many convolutions stand between two poolings.
_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def dense(name: str, inputs: str | None, outputs: str | None, *, bias: bool = True) -> Axes:
    """A Linear."""
    return {f"{name}.weight": (outputs, inputs), **({f"{name}.bias": (outputs,)} if bias else {})}


def conv(name: str, inputs: str | None, outputs: str, *, bias: bool = False) -> Axes:
    """A Conv2d."""
    return {f"{name}.weight": (outputs, inputs, None, None), **({f"{name}.bias": (outputs,)} if bias else {})}


def norm(name: str, units: str) -> Axes:
    """A norm without statistics."""
    return {f"{name}.weight": (units,), f"{name}.bias": (units,)}


def batch_norm(name: str, units: str) -> Axes:
    """A BatchNorm with its buffers."""
    statistics: Axes = {f"{name}.running_mean": (units,), f"{name}.running_var": (units,)}
    return {**norm(name, units), **statistics, f"{name}.num_batches_tracked": ()}


def vgg_places(depth: int, *, norms: bool) -> list[int]:
    """Where the convolutions of a VGG stand in its ``features``, one Sequential.

    Each has a ReLU behind it, and with `norms` a norm in between; each block of them ends with a pooling.
    """
    places, here = [], 0
    for count in _VGG[depth]:
        for _ in range(count):
            places.append(here)
            here += 3 if norms else 2
        here += 1
    return places
