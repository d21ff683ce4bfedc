"""Entry by entry: what is laid over each other is one dimension."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["broadcast", "identity"]


def broadcast(look: Look) -> Dims:
    """[..., n], [..., n or 1] -> [..., n]: dimensions from the last on are the same; singles are broadcast."""
    return look.broadcast(look.of(node) for node in look.tensors())


@rule(
    *("aten.clone", "aten._to_copy", "aten.contiguous", "aten.alias", "aten.detach", "aten.lift_fresh_copy"),
    *("aten.to", "aten.type_as", "aten.positive", "aten.dropout", "aten.native_dropout", "aten.feature_dropout"),
    *("aten.alpha_dropout", "aten.feature_alpha_dropout"),
    carries=True,
)
def identity(look: Look) -> Dims | list[Dims]:
    """[...] -> [...]: every dimension stays what it is."""
    dims = look.of(look.tensors()[0])
    return [list(dims) for _ in look.shapes] if len(look.shapes) > 1 else dims


@rule(
    *("aten.where", "aten.masked_fill", "aten.copy", "aten.__and__", "aten.__or__", "aten.__xor__", "aten.hardswish"),
    *("aten.log_sigmoid", "aten.rsub", "aten.rrelu", "aten.divide", "aten.multiply", "aten.subtract"),
    *("aten.true_divide", "aten.negative", "aten.absolute", "aten.square", "aten.greater", "aten.greater_equal"),
    *("aten.less", "aten.less_equal", "aten.not_equal", "aten.isclose", "aten.isreal", "aten.conj", "aten.real"),
    *("aten.imag", "aten.complex", "aten.polar", "aten.arctan2", "aten.special_expit", "aten.special_erf"),
    *("aten.special_log1p", "aten.special_expm1", "aten.special_ndtr", "aten.special_round", "aten.special_xlogy"),
    *("aten.special_i0", "aten.special_i1", "aten.special_logit", "aten.special_erfinv", "aten.special_digamma"),
    *("aten.special_gammaln", "aten.special_exp2", "aten.special_sinc", "aten.special_erfc", "aten.special_psi"),
)
def untagged(look: Look) -> Dims:
    """As every operation entry by entry, of those that torch does not mark as such."""
    return broadcast(look)


@rule("aten.broadcast_tensors")
def each_broadcast(look: Look) -> list[Dims]:
    """[..., n or 1], [..., n] -> [..., n], [..., n]."""
    dims = broadcast(look)
    return [list(dims) for _ in look.shapes]


@rule(
    *("aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.kl_div"),
    *("aten.binary_cross_entropy", "aten.binary_cross_entropy_with_logits", "aten.soft_margin_loss"),
)
def lost(look: Look) -> Dims:
    """[..., n], [..., n] -> [..., n] entry by entry, or [] of all."""
    dims = broadcast(look)
    return dims if look.shape else []


@rule("aten.eq", "aten.ne", reads=True)
def equal(look: Look) -> Dims:
    """[...], [...] -> [...]: entry by entry; of two values that number the same units, which of them agree."""
    numbers = [look.numbers(node) for node in look.tensors()]
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 2 and first and last and first.kind == last.kind == "unit" and first.of.size == last.of.size:
        look.terms.unify(first.of, last.of, look.why("numbers compared"))
    else:
        look.unread(*look.tensors())
    return broadcast(look)


@rule("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten._safe_softmax")
def softmax(look: Look) -> Dims:
    """[..., n, ...] -> the same: units of n are treated alike, each sees the sum over all."""
    dims = look.of(look.tensors()[0])
    look.mixed(dims, look.dim("dim", len(dims), -1))
    return dims


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(look: Look) -> Dims | list[Dims]:
    """[n, ...], [n, 1, ...] -> [n, ...], each of n of the length that it is given."""
    dims, length = (look.of(node) for node in look.tensors())
    dims = look.broadcast([dims, length])
    look.mixed(dims, *(d for d, each in enumerate(length) if each.size == 1))
    return [dims, length] if len(look.shapes) > 1 else dims


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


@rule("aten.view_as_complex", "aten.view_as_real")
def paired(look: Look) -> Dims:
    """[..., 2] -> [...] and back: real and imaginary parts are told apart."""
    dims = look.of(look.tensors()[0])
    if look.name == "aten.view_as_real":
        return [*dims, look.told(2, "real and imaginary part")]
    look.pin(dims[-1:], "real and imaginary part")
    look.mixed(dims, len(dims) - 1)
    return dims[:-1]
