"""Convolutions, pooling, resampling: channels as in a matrix product, places told apart."""

from __future__ import annotations

import math

from ..look import Dims, Look, rule

__all__ = ["convolution"]

PLACES = "places of a map"


@rule(
    *("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "aten.conv_transpose1d"),
    *("aten.conv_transpose2d", "aten.conv_transpose3d"),
)
def convolution(look: Look) -> Dims:
    """[batch, g * i, ...], [g * o, i, ...], [g * o] -> [batch, g * o, ...]; transposed: weight [g * i, o, ...]."""
    terms, dims, weight = look.terms, look.dims("input"), look.dims("weight")
    transposed = "transpose" in look.name or bool(look["transposed"])
    groups = int(look["groups"] or 1)
    kernel = len(weight) - 2
    at = len(dims) - kernel - 1
    look.pin([*weight[2:], *dims[at + 1 :]], PLACES)
    if groups == 1:
        entering, leaving = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    else:
        group = terms.atom(groups)
        inner = terms.atom(weight[0].size // groups)
        terms.unify(weight[0], terms.product([group, inner]), look.why("channels in groups"))
        other = terms.product([group, weight[1]])
        entering, leaving = (weight[0], other) if transposed else (other, weight[0])
    look.same(dims[at], entering, "summed over")
    if look.has("bias"):
        look.same(leaving, look.dims("bias")[0])
    places = [look.told(size, PLACES) for size in look.shape[at + 1 :]]
    look.inside.append([*dims[:at], *weight[:2]] if groups == 1 else [*dims[:at], group, inner, weight[1]])
    return [*dims[:at], leaving, *places]


@rule(
    *("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d"),
    *("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten._adaptive_avg_pool2d"),
    *("aten._adaptive_avg_pool3d", "aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d"),
    *("aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.upsample_nearest1d"),
    *("aten.upsample_nearest2d", "aten.upsample_nearest3d", "aten.upsample_bilinear2d", "aten.upsample_bicubic2d"),
    *("aten.upsample_linear1d", "aten.upsample_trilinear3d", "aten._upsample_nearest_exact2d"),
    *("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa"),
    *("aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d", "aten.replication_pad1d"),
    *("aten.replication_pad2d", "aten.replication_pad3d"),
)
def resampled(look: Look) -> Dims | list[Dims]:
    """[batch, channels, ...] -> [batch, channels, ...]: channels stay, places are told apart."""
    dims = look.of(look.tensors()[0])
    spatial = next(int(letter) for letter in look.name if letter.isdigit())
    at = len(dims) - spatial - 1
    look.pin(dims[at + 1 :], PLACES)
    results = [
        [*dims[: at + 1], *(look.told(size, PLACES) for size in shape[at + 1 :])] if shape else []
        for shape in look.shapes
    ]
    return results if len(results) > 1 else results[0]


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def sampled(look: Look) -> Dims:
    """[batch, channels, ...], grid [batch, ..., 2 or 3] -> [batch, channels, ...] at the grid's places."""
    dims, grid = (look.of(node) for node in look.tensors())
    look.pin([*dims[2:], grid[-1]], PLACES)
    return [look.same(dims[0], grid[0]), dims[1], *grid[1:-1]]


@rule("aten.im2col", "aten.col2im")
def patches(look: Look) -> Dims:
    """[batch, c, h, w] -> [batch, c * k, places] and back: channels c stay, places are told apart."""
    dims, shape, terms = look.of(look.tensors()[0]), look.shape, look.terms
    at = len(shape) - (2 if look.name == "aten.im2col" else 3)
    kernel = math.prod(look["kernel_size"])
    look.pin(dims[at + 1 :], PLACES)
    if look.name == "aten.im2col":
        channels = terms.product([dims[at], look.told(kernel, PLACES)])
    else:
        channels = terms.atom(shape[at])
        terms.unify(dims[at], terms.product([channels, look.told(kernel, PLACES)]), look.why(PLACES))
    return [*dims[:at], channels, *(look.told(size, PLACES) for size in shape[at + 1 :])]
