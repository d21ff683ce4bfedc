"""Entry by entry: what is laid over each other is one dimension."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["broadcast", "identity"]


def broadcast(look: Look) -> Dims:
    """[..., n], [..., n or 1] -> [..., n]: dimensions from the last on are the same; singles are broadcast."""
    return look.broadcast(look.of(node) for node in look.tensors())


@rule(
    *("aten.clone", "aten._to_copy", "aten.contiguous", "aten.alias", "aten.detach", "aten.lift_fresh_copy"),
    *("aten.to", "aten.type_as", "aten.detach_", "aten.dropout", "aten.native_dropout", "aten.feature_dropout"),
    *("aten.alpha_dropout", "aten.view_of", "aten.positive", "aten.nan_to_num", "aten.rrelu"),
)
def identity(look: Look) -> Dims | list[Dims]:
    """[...] -> [...]: every dimension stays what it is."""
    dims = look.of(look.tensors()[0])
    return [list(dims) for _ in look.shapes] if len(look.shapes) > 1 else dims


@rule("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.softmin", "aten._safe_softmax")
def softmax(look: Look) -> Dims:
    """[..., n, ...] -> the same: units of n are treated alike, each sees the sum over all."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims), -1)
    look.inside.append([*dims[:dim], *dims[dim + 1 :]])
    return dims


@rule("aten.prelu", "aten._prelu_kernel")
def prelu(look: Look) -> Dims:
    """[batch, n, ...], weight [n or 1] -> [batch, n, ...]."""
    dims, weight = (look.of(node) for node in look.tensors()[:2])
    if len(weight) == 1 and len(dims) > 1:
        dims[1] = look.same(dims[1], weight[0])
        return dims
    return look.broadcast([dims, weight])


@rule("aten.glu")
def glu(look: Look) -> Dims:
    """[..., 2n, ...] -> [..., n, ...]: both halves are one dimension."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims), -1)
    first, second = look.terms.cut(dims[dim], dims[dim].size // 2, look.why("cut in halves"))
    dims[dim] = look.same(first, second)
    return dims


@rule("aten.__and__", "aten.__or__", "aten.__xor__", "aten.where", "aten.floor_divide")
def untagged(look: Look) -> Dims:
    """As every operation entry by entry, of those that torch does not mark as such."""
    return broadcast(look)
