"""Specs by hand for the usual architectures, read off a model's tensors: mlp, vgg, resnet.

They go by the order and the names of the tensors, not by the forward pass; `verify_spec` tells whether a spec fits
a model's function. A safetensors file does not keep the order: build the spec from the module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .._models import Model, tensors_of
from .groups import AxisLike, Segment
from .spec import PermutationSpec

__all__ = ["mlp", "resnet", "vgg"]

Axes = dict[str, tuple[AxisLike, ...]]


def mlp(model: Model) -> PermutationSpec:
    """Spec of Linear layers (and norms between them) that feed each other in the order of the model's tensors.

    Every layer's outputs but the last one's form a group, named after the layer.

    Args:
        model: a module or a state dict; norms (LayerNorm over the units, BatchNorm1d) follow the layer that they
            normalise.

    Returns:
        A bound spec.

    Raises:
        TypeError: `model` is neither a module nor a state dict.
        ValueError: layers whose sizes do not fit each other, or tensors that are no Linear's and no norm's.
    """
    return _chain(model, "mlp", (2,))


def vgg(model: Model) -> PermutationSpec:
    """Spec of convolutions, norms and then Linear layers that feed each other in the order of the model's tensors.

    As `mlp`; the first Linear behind the convolutions may read flattened maps: a channel then owns a run of its
    inputs.
    """
    return _chain(model, "vgg", (2, 4))


@dataclass(frozen=True)
class _Layer:
    """The tensors of one layer, known by their shapes."""

    name: str
    weight: Tensor
    tensors: dict[str, Tensor]

    @property
    def is_norm(self) -> bool:
        return self.weight.ndim == 1


def _layers(tensors: Mapping[str, Tensor], builder: str) -> list[_Layer]:
    by_prefix: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_prefix.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
    layers = []
    for prefix, parts in by_prefix.items():
        if "weight" not in parts or not set(parts) <= {"weight", "bias", "running_mean", "running_var"}:
            raise ValueError(
                f"{builder} takes Linear, convolution and norm layers only, got {prefix!r} with {sorted(parts)}"
            )
        layers.append(_Layer(prefix, parts["weight"], parts))
    return layers


def _refuse_group_norms(model: Model, builder: str) -> None:
    """A GroupNorm of several groups ties channels together; its tensors look like any other norm's."""
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, nn.GroupNorm) and module.num_groups not in (1, module.num_channels):
                raise ValueError(
                    f"{builder} takes norms that treat channels alike, got {name!r}, "
                    f"a GroupNorm of {module.num_groups} groups"
                )


def _name(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _dense(axes: Axes, layer: _Layer, outputs: AxisLike, inputs: AxisLike) -> None:
    """A Linear or a convolution: weight [outputs, inputs, ...], bias [outputs]."""
    axes[_name(layer.name, "weight")] = (outputs, inputs, *[None] * (layer.weight.ndim - 2))
    if "bias" in layer.tensors:
        axes[_name(layer.name, "bias")] = (outputs,)


def _norm(axes: Axes, layer: _Layer, units: AxisLike) -> None:
    """A norm over units: every tensor of it is [units]."""
    for part in layer.tensors:
        axes[_name(layer.name, part)] = (units,)


def _chain(model: Model, builder: str, weight_dims: tuple[int, ...]) -> PermutationSpec:
    tensors = tensors_of("model", model)
    _refuse_group_norms(model, builder)
    layers = _layers(tensors, builder)
    if not layers or layers[-1].is_norm:
        raise ValueError(f"{builder} takes layers of which the last is a Linear, got {len(layers)} layers")
    axes: Axes = {}
    units: AxisLike = None
    width: int | None = None
    last_dense = max(i for i, layer in enumerate(layers) if not layer.is_norm)
    previous_dims = 0
    for position, layer in enumerate(layers):
        weight = layer.weight
        if layer.is_norm:
            if width is not None and weight.shape[0] != width:
                raise ValueError(
                    f"{builder}: norm {layer.name!r} has {weight.shape[0]} units, but the layer before it {width}"
                )
            _norm(axes, layer, units)
            continue
        if weight.ndim not in weight_dims:
            raise ValueError(
                f"{builder}: the weight of {layer.name!r} has {weight.ndim} dimensions, it takes {weight_dims}"
            )
        inputs: AxisLike = units
        if width is not None and weight.shape[1] != width:
            flattened = previous_dims == 4 and weight.ndim == 2 and weight.shape[1] % width == 0
            if not flattened or not isinstance(units, str):
                raise ValueError(
                    f"{builder}: layer {layer.name!r} reads {weight.shape[1]} inputs, but the layer before it has "
                    f"{width} outputs"
                )
            inputs = Segment(units, inner=weight.shape[1] // width)
        units = layer.name if position != last_dense else None
        _dense(axes, layer, units, inputs)
        width, previous_dims = weight.shape[0], weight.ndim
    return PermutationSpec.from_axes(axes, model=tensors)


_BLOCK = re.compile(r"^(?P<block>(?:.*\.)?layer(?P<stage>\d+)\.\d+)\.(?P<part>.+)$")
_SHORTCUT = re.compile(r"^(?:shortcut|downsample)\.\d+$")


def resnet(model: Model) -> PermutationSpec:
    """Spec of a ResNet with torchvision's names: conv1, bn1, layer{i}.{j}.conv{k} and bn{k}, a final Linear.

    Blocks of any depth (basic and bottleneck). A projection shortcut is named ``downsample`` or ``shortcut``; it
    opens a new residual stream, and a block without one adds into the stream that it reads, so that both ends
    share a group. Every stream is a group, and so are the units between the convolutions of a block.

    Args:
        model: a module or a state dict; tensors in torchvision's order. Without BatchNorm also.

    Returns:
        A bound spec.

    Raises:
        TypeError: `model` is neither a module nor a state dict.
        ValueError: layers that these names do not explain, or sizes that do not fit.
    """
    tensors = tensors_of("model", model)
    _refuse_group_norms(model, "resnet")
    stem: list[_Layer] = []
    head: list[_Layer] = []
    blocks: dict[str, list[_Layer]] = {}
    for layer in _layers(tensors, "resnet"):
        match = _BLOCK.match(layer.name)
        if match:
            blocks.setdefault(match["block"], []).append(layer)
        else:
            (head if blocks else stem).append(layer)
    if not blocks or not stem or len(head) != 1 or head[0].weight.ndim != 2:
        raise ValueError(
            "resnet takes a stem, blocks named layer{i}.{j} and one Linear behind them, got "
            f"{len(stem)} stem layers, {len(blocks)} blocks, {[layer.name for layer in head]} behind them"
        )
    axes: Axes = {}
    stream = _stem(axes, stem)
    for name, layers in blocks.items():
        stream = _block(axes, name, layers, stream)
    _dense(axes, head[0], None, stream)
    return PermutationSpec.from_axes(axes, model=tensors)


def _stem(axes: Axes, stem: list[_Layer]) -> str:
    """Layers in front of the first block, one after the other; returns the group of the stream that they open."""
    units: str | None = None
    for layer in stem:
        if layer.is_norm:
            _norm(axes, layer, units)
        else:
            _dense(axes, layer, layer.name, units)
            units = layer.name
    if units is None:
        raise ValueError("resnet: the stem must hold a convolution, got norms only")
    return units


def _block(axes: Axes, name: str, layers: list[_Layer], stream: str) -> str:
    """One residual block; returns the group of the stream behind it."""
    shortcut = [layer for layer in layers if _SHORTCUT.match(layer.name[len(name) + 1 :])]
    path = [layer for layer in layers if layer not in shortcut]
    dense = [layer for layer in path if not layer.is_norm]
    if not dense:
        raise ValueError(f"resnet: block {name!r} holds no convolution")
    behind = f"{name}.out" if any(not layer.is_norm for layer in shortcut) else stream
    units = stream
    # A norm belongs to the convolution in front of it; before the first one it is of the stream (pre-activation).
    for layer in path:
        if layer.is_norm:
            _norm(axes, layer, units)
            continue
        after = behind if layer is dense[-1] else layer.name
        _dense(axes, layer, after, units)
        units = after
    for layer in shortcut:
        if layer.is_norm:
            _norm(axes, layer, behind)
        else:
            _dense(axes, layer, behind, stream)
    return behind
