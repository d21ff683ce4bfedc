"""Normalisation: units that are treated alike, with weights of their own."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["batch_norm", "layer_norm"]


@rule("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def layer_norm(look: Look) -> Dims | list[Dims]:
    """[..., n], [n], [n] -> [..., n]."""
    dims = look.dims("input")
    for name in ("weight", "bias"):
        dims = look.broadcast([dims, look.dims(name)])
    kept = len(dims) - len(look["normalized_shape"])
    look.mixed(dims, *range(kept, len(dims)))
    if len(look.shapes) == 1:
        return dims
    return [dims, *([*dims[:kept], *(look.terms.atom(1) for _ in dims[kept:])] for _ in look.shapes[1:])]


@rule(
    *("aten.batch_norm", "aten.native_batch_norm", "aten._native_batch_norm_legit_no_training", "aten.instance_norm"),
    *("aten._native_batch_norm_legit", "aten.cudnn_batch_norm", "aten._batch_norm_no_update"),
)
def batch_norm(look: Look) -> Dims | list[Dims]:
    """[batch, n, ...], weight, bias, running mean and variance [n] -> [batch, n, ...]."""
    dims = look.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if look.has(name):
            dims[1] = look.same(dims[1], look.dims(name)[0])
    if look.name == "aten.instance_norm":
        look.mixed(dims, *range(2, len(dims)))
    elif not look.has("running_mean"):
        # Of the batch itself: weights are standardised so.
        look.mixed(dims, 0, *range(2, len(dims)))
    # In eval mode what is saved of the statistics is empty.
    saved = [
        [dims[1] if size == dims[1].size else look.terms.atom(size) for size in shape] for shape in look.shapes[1:]
    ]
    return [dims, *saved] if saved else dims


@rule("aten.group_norm", "aten.native_group_norm")
def group_norm(look: Look) -> Dims | list[Dims]:
    """[batch, g * n, ...], [g * n], [g * n] -> [batch, g * n, ...]: units alike within each of g."""
    terms, dims = look.terms, look.dims("input")
    groups = int(look["num_groups"] or look["group"])
    group = terms.atom(groups)
    both = terms.product([group, terms.atom(dims[1].size // groups)])
    terms.unify(dims[1], both, look.why("channels in groups"))
    look.inside.append([dims[0], group])
    for name in ("weight", "bias"):
        if look.has(name):
            dims[1] = look.same(dims[1], look.dims(name)[0])
    return dims if len(look.shapes) == 1 else [dims, *([dims[0], group] for _ in look.shapes[1:])]
