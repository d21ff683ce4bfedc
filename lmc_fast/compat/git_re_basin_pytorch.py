"""The names of ``utils/weight_matching.py`` in git-re-basin-pytorch, the port of git-re-basin to torch's names.

``from lmc_fast.compat.git_re_basin_pytorch import weight_matching, vgg16_permutation_spec`` in place of
``from utils.weight_matching import ...``. Where a spec of the port would break a model, the one here does not: its
docstring says how. Indices come as int64, not as floats.
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
from .layers import batch_norm, conv, dense, norm, vgg_places
from .specs import Axes

__all__ = [
    "PermutationSpec",
    "apply_permutation",
    "cnn_permutation_spec",
    "get_permuted_param",
    "mlp_permutation_spec",
    "permutation_spec_from_axes_to_perm",
    "resnet18_permutation_spec",
    "resnet20_permutation_spec",
    "resnet50_permutation_spec",
    "vgg16_permutation_spec",
    "weight_matching",
]


def mlp_permutation_spec(num_hidden_layers: int) -> PermutationSpec:
    """``layer0`` to ``layer{num_hidden_layers}``, one permutation ``P_{i}`` for the outputs of each but the last."""
    check_int("num_hidden_layers", num_hidden_layers, 1)
    units = [None, *(f"P_{i}" for i in range(num_hidden_layers)), None]
    axes: Axes = {}
    for i in range(num_hidden_layers + 1):
        axes |= dense(f"layer{i}", units[i], units[i + 1])
    return permutation_spec_from_axes_to_perm(axes)


def cnn_permutation_spec() -> PermutationSpec:
    """``conv1``, ``conv2``, ``fc1``, ``fc2``, where ``fc1`` reads maps of 1 x 1.

    The port's names neither the convolutions' biases nor that of ``fc2``, though its model has them.
    """
    axes = {**conv("conv1", None, "P_bg0", bias=True), **conv("conv2", "P_bg0", "P_bg1", bias=True)}
    axes |= {**dense("fc1", "P_bg1", "P_bg2"), **dense("fc2", "P_bg2", None)}
    return permutation_spec_from_axes_to_perm(axes)


def resnet18_permutation_spec() -> PermutationSpec:
    """torchvision's ResNet18: four stages of two basic blocks, ``layer{i}.{j}``, all but the first with a projection.

    The port counts running statistics in the gain; here they move with their units and do not count.
    """
    axes: Axes = {**conv("conv1", None, "P_bg0"), **batch_norm("bn1", "P_bg0")}
    stream = "P_bg0"
    for stage in range(4):
        for block in range(2):
            name, behind = f"layer{stage + 1}.{block}", f"P_bg{stage}"
            inner = f"P_{name}_inner"
            axes |= {**conv(f"{name}.conv1", stream, inner), **batch_norm(f"{name}.bn1", inner)}
            axes |= {**conv(f"{name}.conv2", inner, behind), **batch_norm(f"{name}.bn2", behind)}
            if behind != stream:
                axes |= conv(f"{name}.downsample.0", stream, behind)
                axes |= batch_norm(f"{name}.downsample.1", behind)
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **dense("fc", stream, None)})


def resnet20_permutation_spec() -> PermutationSpec:
    """The wide pre-activation ResNet of depth 22: three stages of three blocks, each opened by a projection.

    It names no running statistics, since the port's model has GroupNorm; those of a BatchNorm move all the same.
    """
    return _wide_resnet(3)


def resnet50_permutation_spec() -> PermutationSpec:
    """As `resnet20_permutation_spec`, of depth 52: eight blocks a stage. Not the bottleneck ResNet50."""
    return _wide_resnet(8)


def vgg16_permutation_spec() -> PermutationSpec:
    """VGG16 with BatchNorm: ``features`` of 13 convolutions, whose last maps are 1 x 1, and one Linear ``classifier``.

    The port gives a permutation to the classifier's outputs, which scrambles the class labels, and counts running
    statistics in the gain. Here the outputs are fixed, and the statistics move with their units and do not count.
    """
    axes: Axes = {}
    before = None
    for i in vgg_places(16, norms=True):
        axes |= conv(f"features.{i}", before, f"P_Conv_{i}", bias=True)
        axes |= batch_norm(f"features.{i + 1}", f"P_Conv_{i}")
        before = f"P_Conv_{i}"
    return permutation_spec_from_axes_to_perm({**axes, **dense("classifier", before, None)})


def _wide_resnet(blocks: int) -> PermutationSpec:
    axes: Axes = conv("conv1", None, "P_bg0")
    stream = "P_bg0"
    for stage in range(1, 4):
        for block in range(blocks):
            name, behind = f"layer{stage}.{block}", f"P_bg{stage}"
            inner = f"P_{name}_inner"
            axes |= {**norm(f"{name}.bn1", stream), **conv(f"{name}.conv1", stream, inner)}
            axes |= {**norm(f"{name}.bn2", inner), **conv(f"{name}.conv2", inner, behind)}
            if behind != stream:
                axes |= {**conv(f"{name}.shortcut.0", stream, behind), **norm(f"{name}.shortcut.1", behind)}
            stream = behind
    axes |= {**norm("bn1", stream), **dense("linear", stream, None)}
    return permutation_spec_from_axes_to_perm(axes)
