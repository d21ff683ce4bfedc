"""What may be turned in the small transformers of experiments, by hand."""

from __future__ import annotations

from typing import Any

from torch import nn

from lmc_fast import Group, PermutationSpec, Segment, fold_norms
from lmc_fast.experiments.transformers import Decoder, VisionTransformer
from lmc_fast.symmetry.folds import Centre, Fold, Reader

__all__ = ["pure_form", "rotation_spec"]


def rotation_spec(model: nn.Module) -> PermutationSpec:
    """What may be turned and permuted in the pure form of such a model (`fold_norms`): bound to it.

    Groups: the residual "stream"; in every layer "unit{i}" and "head{i}", which owns "query_key{i}" and "value{i}".
    """
    assert isinstance(model, (VisionTransformer, Decoder))
    attention: Any = model.layers[0].attention
    rotary, heads = attention.rotary, attention.heads
    layer = "layers.{i}."
    query_key = Segment("head{i}", inner=(Segment("query_key{i}", outer=2 if rotary else 1),))
    value = Segment("head{i}", inner=(Segment("value{i}"),))
    axes: dict[str, tuple[Any, ...]] = {
        layer + "attention.{x:q|k}.weight": (query_key, "stream"),
        layer + "attention.v.weight": (value, "stream"),
        layer + "attention.o.weight": ("stream", value),
        layer + "mlp.{x:up|gate}.weight": ("unit{i}", "stream"),
        layer + "mlp.down.weight": ("stream", "unit{i}"),
        "head.weight": (None, "stream"),
    }
    if isinstance(model, VisionTransformer):
        axes |= {
            "patches.weight": ("stream", None),
            "patches.bias": ("stream",),
            layer + "attention.{x:q|k}.bias": (query_key,),
            layer + "attention.v.bias": (value,),
            layer + "attention.o.bias": ("stream",),
            layer + "mlp.up.bias": ("unit{i}",),
            layer + "mlp.down.bias": ("stream",),
        }
    else:
        axes["tokens.weight"] = (None, "stream")
    if model.positions is not None:
        axes["positions"] = (None, "stream")
    keeps_ones = isinstance(model.norm, nn.LayerNorm)
    groups = [
        Group("stream", kind="orthogonal_keeping_ones" if keeps_ones else "orthogonal"),
        Group("head{i}", heads),
        Group("query_key{i}", owner="head{i}", kind="phases" if rotary else "orthogonal"),
        Group("value{i}", owner="head{i}", kind="orthogonal"),
    ]
    return PermutationSpec.from_axes(axes, groups, model=model, rest="fixed", folds=_folds(model))


def _folds(model: VisionTransformer | Decoder) -> list[Fold | Centre]:
    """The norms, what reads them, and what writes to a stream that LayerNorms alone read."""
    shifted = isinstance(model.norm, nn.LayerNorm)
    readers = {"norm": ["head"]}
    for i in range(len(model.layers)):
        readers[f"layers.{i}.norm1"] = [f"layers.{i}.attention.{x}" for x in "qkv"]
        hidden = ("up",) if isinstance(model, VisionTransformer) else ("gate", "up")
        readers[f"layers.{i}.norm2"] = [f"layers.{i}.mlp.{x}" for x in hidden]
    folds: list[Fold | Centre] = [
        Fold(
            f"{norm}.weight",
            tuple(Reader(f"{name}.weight", 1, f"{name}.bias" if shifted else None) for name in read),
            f"{norm}.bias" if shifted else None,
        )
        for norm, read in readers.items()
    ]
    if shifted:
        writers = [f"layers.{i}.{x}" for i in range(len(model.layers)) for x in ("attention.o", "mlp.down")]
        folds += [Centre(f"{name}.{x}", 0) for name in ("patches", *writers) for x in ("weight", "bias")]
        folds.append(Centre("positions", 1))
    return folds


def pure_form(model: nn.Module) -> nn.Module:
    """A new model that computes the same, with norms of gain 1 and bias 0: what `rotation_spec` speaks of."""
    return fold_norms(model, rotation_spec(model))
