"""Specs as C2M3 has them, and what builds them for its models."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from ..._checks import check_int, check_type
from ..layers import batch_norm, conv, dense, norm, vgg_places
from ..specs import Axes, DerivedSpec, Places, derived_spec
from ..specs import permutation_spec_from_axes_to_perm as _from_axes
from .models import get_model

__all__ = [
    "AutoPermutationSpecBuilder",
    "CNNPermutationSpecBuilder",
    "MLPPermutationSpecBuilder",
    "PermutationSpec",
    "PermutationSpecBuilder",
    "ResNet20PermutationSpecBuilder",
    "ResNet50PermutationSpecBuilder",
    "VGG16PermutationSpecBuilder",
    "ViTPermutationSpecBuilder",
    "batchnorm_axes",
    "conv_axes",
    "dense_layer_axes",
    "layernorm_axes",
]


class PermutationSpec(NamedTuple):
    """What may be permuted.

    Attributes:
        perm_to_layers_and_axes: for every permutation the (parameter, axis) pairs that it moves.
        layer_and_axes_to_perm: for every parameter and axis the permutation that moves it, or None.
    """

    perm_to_layers_and_axes: Places
    layer_and_axes_to_perm: Axes


class DerivedAutoSpec(DerivedSpec):
    """A `DerivedSpec` under these names."""

    @property
    def perm_to_layers_and_axes(self) -> Places:
        """The first half."""
        return self.perm_to_axes

    @property
    def layer_and_axes_to_perm(self) -> Axes:
        """The second half."""
        return self.axes_to_perm


def conv_axes(name: str, p_rows: str | None, p_cols: str | None, bias: bool = False) -> Axes:
    """The axes of a Conv2d."""
    return {f"{name}.weight": (p_rows, p_cols, None, None), **({f"{name}.bias": (p_rows,)} if bias else {})}


def layernorm_axes(name: str, p: str) -> Axes:
    """The axes of a norm without statistics."""
    return norm(name, p)


def batchnorm_axes(name: str, p: str) -> Axes:
    """The axes of a BatchNorm."""
    return batch_norm(name, p)


def dense_layer_axes(name: str, p_rows: str | None, p_cols: str | None, bias: bool = True) -> Axes:
    """The axes of a Linear."""
    return dense(name, p_cols, p_rows, bias=bias)


class PermutationSpecBuilder:
    """Base of what builds a spec; ``create_permutation`` is another name of ``create_permutation_spec``."""

    def create_permutation_spec(self, *args: Any, **kwargs: Any) -> PermutationSpec | DerivedAutoSpec:
        """The spec; arguments that a builder does not need are taken."""
        return self.permutation_spec_from_axes_to_perm(self._axes())

    def create_permutation(self, *args: Any, **kwargs: Any) -> PermutationSpec | DerivedAutoSpec:
        """As `create_permutation_spec`."""
        return self.create_permutation_spec(*args, **kwargs)

    def permutation_spec_from_axes_to_perm(self, axes_to_perm: Axes) -> PermutationSpec:
        """A spec from its second half: every axis that moves counts."""
        return PermutationSpec(*_from_axes(axes_to_perm))

    def _axes(self) -> Axes:
        raise NotImplementedError(f"{type(self).__name__} must define create_permutation_spec")


class MLPPermutationSpecBuilder(PermutationSpecBuilder):
    """``layer0`` to ``layer{num_hidden_layers}``."""

    def __init__(self, num_hidden_layers: int) -> None:
        self.num_hidden_layers = check_int("num_hidden_layers", num_hidden_layers, 1)

    def _axes(self) -> Axes:
        units = [None, *(f"P_{i}" for i in range(self.num_hidden_layers)), None]
        axes: Axes = {}
        for i in range(self.num_hidden_layers + 1):
            axes |= dense(f"layer{i}", units[i], units[i + 1])
        return axes


class CNNPermutationSpecBuilder(PermutationSpecBuilder):
    """``conv1``, ``conv2``, a shortcut that puts the channels back in place, ``fc1`` and ``fc2``."""

    def _axes(self) -> Axes:
        axes = {**conv("conv1", None, "P_conv1", bias=True), **conv("conv2", "P_conv1", "P_conv2", bias=True)}
        axes["shortcut.identity"] = (None, "P_conv2")
        return {**axes, **dense("fc1", None, "P_fc1"), **dense("fc2", "P_fc1", None)}


class ResNet20PermutationSpecBuilder(PermutationSpecBuilder):
    """Three stages of three basic blocks, ``blockgroup{i}.block{j}``; a norm lies in a ``layer_norm`` of its layer.

    Args:
        norm_layer: "ln", or "bn".
    """

    def __init__(self, norm_layer: str = "ln") -> None:
        if norm_layer not in ("ln", "bn"):
            raise ValueError(f"norm_layer must be 'ln' or 'bn', got {norm_layer!r}")
        self.norm_layer = norm_layer

    def _norm(self, name: str, units: str) -> Axes:
        return (norm if self.norm_layer == "ln" else batch_norm)(f"{name}.layer_norm", units)

    def _axes(self) -> Axes:
        axes: Axes = {**conv("conv1", None, "P_bg0"), **self._norm("bn1", "P_bg0")}
        stream = "P_bg0"
        for stage in range(3):
            for block in range(3):
                name, behind = f"blockgroup{stage + 1}.block{block + 1}", f"P_bg{stage}"
                inner = f"P_{name}_inner"
                axes |= {**conv(f"{name}.conv1", stream, inner), **self._norm(f"{name}.bn1", inner)}
                axes |= {**conv(f"{name}.conv2", inner, behind), **self._norm(f"{name}.bn2", behind)}
                if behind != stream:
                    axes |= {**conv(f"{name}.shortcut.0", stream, behind), **self._norm(f"{name}.shortcut.1", behind)}
                stream = behind
        return {**axes, **dense("linear", stream, None)}


class ResNet50PermutationSpecBuilder(ResNet20PermutationSpecBuilder):
    """Three stages of eight basic blocks, ``layer{i}.{j}``, and a norm at the end. Not the bottleneck ResNet50."""

    def __init__(self) -> None:
        super().__init__("ln")

    def _axes(self) -> Axes:
        axes: Axes = {**conv("conv1", None, "P_bg0"), **norm("bn1", "P_bg0")}
        stream = "P_bg0"
        for stage in range(1, 4):
            for block in range(8):
                name, behind = f"layer{stage}.{block}", f"P_bg{stage}"
                inner = f"P_{name}_inner"
                axes |= {**conv(f"{name}.conv1", stream, inner), **self._norm(f"{name}.bn1", inner)}
                axes |= {**conv(f"{name}.conv2", inner, behind), **self._norm(f"{name}.bn2", behind)}
                if behind != stream:
                    axes |= {**conv(f"{name}.shortcut.0", stream, behind), **self._norm(f"{name}.shortcut.1", behind)}
                stream = behind
        return {**axes, **norm("out_bn", stream), **dense("linear", stream, None)}


class VGG16PermutationSpecBuilder(PermutationSpecBuilder):
    """``embedder`` of 13 convolutions with LayerNorm, whose last maps are 1 x 1, and three Linears, ``classifier``."""

    def _axes(self) -> Axes:
        axes: Axes = {}
        before: str | None = None
        for i in vgg_places(16, norms=True):
            units = f"P_Conv_{i}"
            axes |= {**conv(f"embedder.{i}", before, units, bias=True), **norm(f"embedder.{i + 1}.layer_norm", units)}
            before = units
        for place, behind in zip((0, 2, 4), ("P_Dense_0", "P_Dense_1", None), strict=True):
            axes |= dense(f"classifier.{place}", before, behind)
            before = behind
        return axes


class ViTPermutationSpecBuilder(PermutationSpecBuilder):
    """A ViT whose shortcuts hold their identity as a parameter, so that the stream has an order behind each block.

    The original permutes queries and keys across heads, which changes the function of a model with more than one, and
    the identities' other axes, which does so for all but involutions. Here queries and keys stay, and identities put
    the stream where the next layer reads it.

    Args:
        depth: how many blocks.
    """

    def __init__(self, depth: int) -> None:
        self.depth = check_int("depth", depth, 1)

    def _axes(self) -> Axes:
        patches = "to_patch_embedding.to_patch_tokens"
        axes: Axes = {
            f"{patches}.1.weight": (None,),
            f"{patches}.1.bias": (None,),
            **dense(f"{patches}.2", None, "P_in"),
        }
        axes |= {"pos_embedding": (None, None, "P_in"), "cls_token": (None, None, "P_in")}
        stream = "P_in"
        for i in range(self.depth):
            behind = "P_last" if i == self.depth - 1 else f"P{i}_out"
            attention, shortcut, mlp, second = (f"transformer.layers.{i}.{part}" for part in range(4))
            axes |= {**norm(f"{attention}.norm", stream), f"{attention}.temperature": ()}
            for part in ("to_q", "to_k", "to_v"):
                axes |= dense(f"{attention}.{part}", stream, None, bias=False)
            axes |= {**dense(f"{attention}.to_out.0", None, None), f"{shortcut}.identity": (None, stream)}
            axes |= {f"{mlp}.net.0.weight": (None,), f"{mlp}.net.0.bias": (None,)}
            axes |= {**dense(f"{mlp}.net.1", None, f"P{i}_mlp_out"), **dense(f"{mlp}.net.4", f"P{i}_mlp_out", behind)}
            axes[f"{second}.identity"] = (behind, None)
            stream = behind
        return {**axes, **norm("mlp_head.0", stream), **dense("mlp_head.1", stream, None)}


class AutoPermutationSpecBuilder(PermutationSpecBuilder):
    """Finds what may be permuted in any model, by `lmc_fast.derive_spec`."""

    def create_permutation_spec(self, ref_model: nn.Module, ref_input: Any, **kwargs: Any) -> DerivedAutoSpec:
        """The spec of a model.

        Args:
            ref_model: a module, or what holds one as its ``model``.
            ref_input: example inputs, as of `lmc_fast.derive_spec`.
        """
        check_type("ref_model", ref_model, nn.Module, "a torch.nn.Module")
        found = derived_spec(get_model(ref_model), ref_input)
        spec = DerivedAutoSpec(*found)
        spec.whole = found.whole
        return spec
