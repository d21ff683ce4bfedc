"""The names of ``weight_matching.py`` in git-re-basin (Ainsworth et al., ICLR 2023), for JAX and for torch code.

``from lmc_fast.compat.git_re_basin import weight_matching, apply_permutation`` in place of
``from weight_matching import ...``. The spec builders here know Flax's names (a kernel is [..., inputs, outputs], a
path is joined by ``/``). The PyTorch port has builders of the same names for torch's: they are in
`lmc_fast.compat.git_re_basin_pytorch`. All else is the same object in both modules, and takes both call forms.
"""

from __future__ import annotations

from .._checks import check_int
from .interface import (
    PermutationSpec,
    apply_permutation,
    get_permuted_param,
    permutation_spec_from_axes_to_perm,
    weight_matching,
)
from .specs import Axes

__all__ = [
    "PermutationSpec",
    "apply_permutation",
    "get_permuted_param",
    "mlp_permutation_spec",
    "permutation_spec_from_axes_to_perm",
    "resnet20_permutation_spec",
    "resnet50_permutation_spec",
    "vgg16_permutation_spec",
    "weight_matching",
]


def mlp_permutation_spec(num_hidden_layers: int) -> PermutationSpec:
    """``Dense_0`` to ``Dense_{num_hidden_layers}``, one permutation ``P_{i}`` for the outputs of each but the last."""
    check_int("num_hidden_layers", num_hidden_layers, 1)
    units = [None, *(f"P_{i}" for i in range(num_hidden_layers)), None]
    axes: Axes = {}
    for i in range(num_hidden_layers + 1):
        axes |= _dense(f"Dense_{i}", units[i], units[i + 1])
    return permutation_spec_from_axes_to_perm(axes)


def vgg16_permutation_spec() -> PermutationSpec:
    """13 convolutions with LayerNorm, ``Conv_0`` to ``Conv_12``, whose last maps are 1 x 1, and 3 dense layers."""
    axes: Axes = {}
    before = None
    for i in range(13):
        axes |= {**_conv(f"Conv_{i}", before, f"P_Conv_{i}"), f"Conv_{i}/bias": (f"P_Conv_{i}",)}
        axes |= _norm(f"LayerNorm_{i}", f"P_Conv_{i}")
        before = f"P_Conv_{i}"
    axes |= _dense("Dense_0", before, "P_Dense_0")
    axes |= _dense("Dense_1", "P_Dense_0", "P_Dense_1")
    axes |= _dense("Dense_2", "P_Dense_1", None)
    return permutation_spec_from_axes_to_perm(axes)


def resnet20_permutation_spec() -> PermutationSpec:
    """Three stages of three basic blocks, ``blockgroups_{i}/blocks_{j}``; stages 1 and 2 open with a projection."""
    axes: Axes = {**_conv("conv1", None, "P_bg0"), **_norm("norm1", "P_bg0")}
    stream = "P_bg0"
    for stage in range(3):
        for block in range(3):
            name, behind = f"blockgroups_{stage}/blocks_{block}", f"P_bg{stage}"
            inner = f"P_{name}_inner"
            axes |= {**_conv(f"{name}/conv1", stream, inner), **_norm(f"{name}/norm1", inner)}
            axes |= {**_conv(f"{name}/conv2", inner, behind), **_norm(f"{name}/norm2", behind)}
            if behind != stream:
                axes |= _conv(f"{name}/shortcut/layers_0", stream, behind)
                axes |= _norm(f"{name}/shortcut/layers_1", behind)
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **_dense("dense", stream, None)})


def resnet50_permutation_spec() -> PermutationSpec:
    """Four stages of 3, 4, 6 and 3 bottleneck blocks, each stage opened by a projection.

    Running statistics are a collection of their own in Flax, which `apply_permutation` does not see: estimate them
    again for a merged model.
    """
    stem = "layers_0/ConvBlock_0"
    axes: Axes = {**_conv(f"{stem}/Conv_0", None, "P_bg0"), **_norm(f"{stem}/BatchNorm_0", "P_bg0")}
    stream = "P_bg0"
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name, behind = f"blockgroups_{stage}/blocks_{block}", f"P_bg{stage + 1}"
            units = [stream, f"P_{name}_inner1", f"P_{name}_inner2", behind]
            parts = [(f"{name}/ConvBlock_{i}", units[i], units[i + 1]) for i in range(3)]
            if behind != stream:
                parts.append((f"{name}/ResNetSkipConnection_0/ConvBlock_0", stream, behind))
            for part, inputs, outputs in parts:
                axes |= {**_conv(f"{part}/Conv_0", inputs, outputs), **_norm(f"{part}/BatchNorm_0", outputs)}
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **_dense("dense", stream, None)})


def _dense(name: str, inputs: str | None, outputs: str | None) -> Axes:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _conv(name: str, inputs: str | None, outputs: str) -> Axes:
    return {f"{name}/kernel": (None, None, inputs, outputs)}


def _norm(name: str, units: str) -> Axes:
    return {f"{name}/scale": (units,), f"{name}/bias": (units,)}
