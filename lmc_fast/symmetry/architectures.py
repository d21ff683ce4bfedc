"""Specs by hand for the usual architectures, read off a model's tensors: mlp, vgg, resnet.

They go by the order and the names of the tensors, not by the forward pass; `verify_spec` tells whether a spec fits
a model's function. A state dict shows less than a module: safetensors files come back sorted by name, and a
normalisation over groups of channels looks like one over all of them. Where it does not tell, nothing is built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._models import STATISTICS, Model, tensors_of
from .groups import AxisLike, Segment
from .spec import PermutationSpec

__all__ = ["mlp", "resnet", "vgg"]

Axes = dict[str, tuple[AxisLike, ...]]


def mlp(model: Model) -> PermutationSpec:
    """Spec of Linear layers (and norms between them) that feed each other in the order of the model's tensors.

    Every layer's outputs but the last one's form a group, named after the layer.

    Args:
        model: a module or a state dict; norms (LayerNorm over the units, BatchNorm1d) follow the layer that they
            normalise. The layers of a state dict go by the numbers in their names ("2" before "10", "fc1" before
            "fc2"); where names do not tell the order, by the dict's own, unless it is sorted by name, as
            safetensors files are. Of norms it may hold such with running statistics.

    Returns:
        A bound spec.

    Raises:
        TypeError: `model` is neither a module nor a state dict.
        ValueError: layers whose sizes do not fit each other, tensors that are no Linear's and no norm's, or a state
            dict that does not tell the order or what a norm is.
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
    tensors: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """The weight; of a norm without one, its statistics."""
        return self.tensors.get("weight", self.tensors.get(STATISTICS[0], torch.empty(0)))

    @property
    def is_norm(self) -> bool:
        return self.weight.ndim == 1


def _layers(model: Model, tensors: Mapping[str, Tensor], builder: str) -> list[_Layer]:
    _refuse_modules(model, builder)
    by_prefix: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_prefix.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
    for prefix, parts in by_prefix.items():
        if not {"weight", STATISTICS[0]} & set(parts) or not set(parts) <= {"weight", "bias", *STATISTICS}:
            raise ValueError(
                f"{builder} takes Linear, convolution and norm layers only, got {prefix!r} with {sorted(parts)}"
            )
    layers = [_Layer(prefix, parts) for prefix, parts in by_prefix.items()]
    for layer in layers:
        sizes = {len(part) for kind, part in layer.tensors.items() if kind != "weight" or layer.is_norm}
        if sizes - {len(layer.weight)}:
            raise ValueError(
                f"{builder} takes plain layers only, but the weight and the other tensors of {layer.name!r} differ in "
                "their number of outputs"
            )
    if isinstance(model, nn.Module):
        return layers
    unknown = next((layer for layer in layers if layer.is_norm and STATISTICS[0] not in layer.tensors), None)
    if unknown is not None:
        raise ValueError(
            f"{builder} cannot tell from a state dict what norm {unknown.name!r} is: a LayerNorm, or a GroupNorm, "
            "whose channels cannot be permuted freely. Pass the module, or write the spec by hand"
        )
    return layers


def _pieces(name: str) -> list[str | int]:
    """A layer's name as words and numbers: "layers.10" is "layers.", 10, ""."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+)", name))]


def _is_sorted(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names are sorted, as safetensors files give them (each dtype for itself): not a model's own order."""
    by_dtype: dict[torch.dtype, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_dtype.setdefault(tensor.dtype, []).append(name)
    return all(names == sorted(names) for names in by_dtype.values())


def _in_order(model: Model, tensors: Mapping[str, Tensor], layers: list[_Layer], builder: str) -> list[_Layer]:
    """Layers in the order in which they feed each other: a module's own, a state dict's if anything tells it."""
    if isinstance(model, nn.Module) or len(layers) < 2:
        return layers
    keys = {layer.name: _pieces(layer.name) for layer in layers}
    is_sorted = _is_sorted(tensors)
    # Names that differ in their first difference by a number tell which comes first, others do not.
    told = all(
        isinstance(next((a for a, b in zip(keys[one.name], keys[other.name], strict=False) if a != b), ""), int)
        for one, other in itertools.combinations(layers, 2)
    )
    if told:
        # No two of these names compare a word with a number.
        natural = sorted(layers, key=lambda layer: keys[layer.name])
        if natural == layers or is_sorted:
            return natural
        raise ValueError(
            f"{builder}: the order of the state dict contradicts the numbers in its names "
            f"({', '.join(layer.name for layer in layers[:6])}). Pass the module, or a dict in the order of the numbers"
        )
    if is_sorted:
        raise ValueError(
            f"{builder} cannot tell the order of the layers from a state dict that is sorted by name, as safetensors "
            f"files are ({', '.join(layer.name for layer in layers[:6])}). Pass the module, or a dict in the order in "
            "which the layers feed each other, weights before biases"
        )
    return layers


def _refuse_modules(model: Model, builder: str) -> None:
    """Layers whose tensors look like another's, and move in another way."""
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        kind = None
        weight, groups = getattr(module, "weight", None), getattr(module, "num_groups", 1)
        if isinstance(module, nn.GroupNorm):
            if groups not in (1, module.num_channels):
                kind = f"a GroupNorm of {groups} groups"
        elif isinstance(weight, Tensor) and weight.ndim == 1 and groups not in (1, len(weight)):
            kind = f"a {type(module).__name__} of {groups} groups"
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            kind = "an embedding"
        elif isinstance(module, (nn.LocalResponseNorm, nn.CrossMapLRN2d, nn.ChannelShuffle)):
            kind = f"a {type(module).__name__}, to which the order of channels matters"
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            kind = "a transposed convolution"
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups != 1:
            kind = f"a convolution of {module.groups} groups"
        if kind is not None:
            raise ValueError(f"{builder} takes plain layers only, got {name!r}, {kind}: write its spec by hand")


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
    tensors = tensors_of("model", model, shapes_only=True)
    layers = _in_order(model, tensors, _layers(model, tensors, builder), builder)
    if not layers or layers[-1].is_norm:
        last = f"norm {layers[-1].name!r} at the end" if layers else "no layers"
        raise ValueError(f"{builder} takes layers of which the last is a Linear, got {last}")
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
_SHORTCUT = re.compile(r"^(?:shortcut|downsample)(?:\.\d+)?$")


def resnet(model: Model) -> PermutationSpec:
    """Spec of a ResNet with torchvision's names: conv1, bn1, layer{i}.{j}.conv{k} and bn{k}, a final Linear.

    Blocks of any depth (basic and bottleneck). Norms stand behind the convolution that they follow (or in front
    of it, in pre-activation blocks), or bn{k} goes with conv{k} where all convolutions stand first. A projection
    shortcut is named ``downsample`` or ``shortcut``; it opens a new residual stream, and a block without one adds
    into the stream that it reads, so that both ends share a group. Every stream is a group, and so are the units
    between the convolutions of a block.

    Args:
        model: a module or a state dict, which must not be sorted by name, as safetensors files are; tensors in
            torchvision's order. Without BatchNorm also; of norms a state dict may hold such with running statistics.

    Returns:
        A bound spec.

    Raises:
        TypeError: `model` is neither a module nor a state dict.
        ValueError: layers that these names do not explain, sizes that do not fit, or a state dict that does not tell
            the order or what a norm is.
    """
    tensors = tensors_of("model", model, shapes_only=True)
    if not isinstance(model, nn.Module) and _is_sorted(tensors):
        raise ValueError(
            "resnet cannot tell the order of the layers from a state dict that is sorted by name, as safetensors files "
            "are. Pass the module, or a dict in the module's order"
        )
    stem: list[_Layer] = []
    head: list[_Layer] = []
    blocks: dict[str, list[_Layer]] = {}
    for layer in _layers(model, tensors, "resnet"):
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
    norms = [layer for layer in path if layer.is_norm]
    if not dense:
        raise ValueError(f"resnet: block {name!r} holds no convolution")
    behind = f"{name}.out" if any(not layer.is_norm for layer in shortcut) else stream
    units = {layer.name: behind if layer is dense[-1] else layer.name for layer in dense}
    inputs = stream
    for layer in dense:
        _dense(axes, layer, units[layer.name], inputs)
        inputs = units[layer.name]
    for layer, owner in zip(norms, _normalised(name, path, dense, norms), strict=True):
        _norm(axes, layer, stream if owner is None else units[owner.name])
    for layer in shortcut:
        if layer.is_norm:
            _norm(axes, layer, behind)
        else:
            _dense(axes, layer, behind, stream)
    return behind


def _normalised(name: str, path: list[_Layer], dense: list[_Layer], norms: list[_Layer]) -> list[_Layer | None]:
    """For each norm of a block the layer whose outputs it sees; None: the stream.

    By order where no two norms follow each other: a norm sees the layer in front of it (the stream, before the
    first one). By number where all layers come first and then all norms (bn1 sees conv1).
    """
    if all(not (first.is_norm and second.is_norm) for first, second in itertools.pairwise(path)):
        seen: list[_Layer | None] = []
        before: _Layer | None = None
        for layer in path:
            if layer.is_norm:
                seen.append(before)
            else:
                before = layer
        return seen
    by_number = {_number(layer): layer for layer in dense}
    if path == [*dense, *norms] and len(by_number) == len(dense) and all(_number(n) in by_number for n in norms):
        return [by_number[_number(layer)] for layer in norms]
    raise ValueError(
        f"resnet: neither order nor numbers tell what the norms of block {name!r} see: "
        f"{[layer.name[len(name) + 1 :] for layer in path]}; write its spec by hand"
    )


def _number(layer: _Layer) -> str:
    """The digits at the end of a layer's name."""
    match = re.search(r"\d*$", layer.name)
    return match.group() if match else ""
