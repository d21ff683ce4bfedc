"""What operations do with a parameter: what meets its dimensions, and what comes out along them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .labels import is_pointwise

__all__ = ["NORMALISING", "Use", "is_shown_by_constants", "uses_of"]


@dataclass(frozen=True)
class Use:
    """One tensor in an operation, that may be computed from parameters.

    Attributes:
        weight: the tensor.
        meets: the value that some of its dimensions are laid over, or None.
        met: for these the value's dimension, counted from its end.
        gives: for those that the (first) result has, the result's dimension, counted from its end.
    """

    weight: Tensor
    meets: Tensor | None
    met: Mapping[int, int]
    gives: Mapping[int, int]


# An operation's arguments by name -> its uses.
_Rule = Callable[[Mapping[str, Any]], Iterator[Use]]


def _from_end(tensor: Tensor) -> dict[int, int]:
    """Each dimension laid over the result's as broadcasting does."""
    return {dim: dim - tensor.ndim for dim in range(tensor.ndim)}


def _product(one: Tensor, other: Tensor) -> Iterator[Use]:
    """[..., a, k], [..., k, b] -> [..., a, b], the leading dimensions one by one."""
    batch = {dim: dim - other.ndim for dim in range(other.ndim - 2)}
    first, second = other.ndim - 2, other.ndim - 1
    yield Use(other, one, {**batch, first: -1}, {**batch, second: -1})
    yield Use(one, other, {**batch, second: -2}, {**batch, first: -2})


def _mm(named: Mapping[str, Any]) -> Iterator[Use]:
    yield from _product(named["self"], named["mat2"])


def _addmm(named: Mapping[str, Any]) -> Iterator[Use]:
    names = ("mat1", "mat2") if "mat1" in named else ("batch1", "batch2")
    yield from _product(*(named[name] for name in names))
    yield Use(named["self"], None, {}, _from_end(named["self"]))


def _mv(named: Mapping[str, Any]) -> Iterator[Use]:
    matrix, vector = (named[name] for name in (("mat", "vec") if "mat" in named else ("self", "vec")))
    yield Use(matrix, vector, {1: -1}, {0: -1})
    yield Use(vector, matrix, {0: -1}, {})
    if "mat" in named:
        yield Use(named["self"], None, {}, _from_end(named["self"]))


def _convolution(named: Mapping[str, Any]) -> Iterator[Use]:
    """Weights [outputs, inputs / groups, ...], transposed ones [inputs, outputs / groups, ...]."""
    weight, bias = named["weight"], named.get("bias")
    channels, whole = 1 - weight.ndim, named["groups"] == 1
    if named["transposed"]:
        yield Use(weight, named["input"], {0: channels}, {1: channels} if whole else {})
    else:
        yield Use(weight, named["input"], {1: channels} if whole else {}, {0: channels})
    if bias is not None:
        yield Use(bias, None, {}, {0: channels})


def _embedding(named: Mapping[str, Any]) -> Iterator[Use]:
    yield Use(named["weight"], None, {}, {1: -1})


def _index(named: Mapping[str, Any]) -> Iterator[Use]:
    weight, indices = named["self"], named["indices"]
    if indices and indices[0] is not None and all(index is None for index in indices[1:]):
        yield Use(weight, None, {}, {dim: dim - weight.ndim for dim in range(1, weight.ndim)})


def _index_select(named: Mapping[str, Any]) -> Iterator[Use]:
    weight = named["self"]
    gone = named["dim"] % weight.ndim
    yield Use(weight, None, {}, {dim: at for dim, at in _from_end(weight).items() if dim != gone})


def _channel_norm(named: Mapping[str, Any]) -> Iterator[Use]:
    """Affine parameters and statistics of the second dimension."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        if named.get(name) is not None:
            yield Use(named[name], None, {}, {0: 1 - named["input"].ndim})


def _layer_norm(named: Mapping[str, Any]) -> Iterator[Use]:
    for name in ("weight", "bias"):
        if named.get(name) is not None:
            yield Use(named[name], None, {}, _from_end(named[name]))


def _recurrent(named: Mapping[str, Any]) -> Iterator[Use]:
    """One layer of an LSTM: [..., inputs] with [gates, inputs] and [gates, hidden] -> [..., hidden]."""
    yield Use(named["weight0"], named["input"], {1: -1}, {})
    yield Use(named["weight1"], None, {}, {1: -1})


NORMALISING = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
    }
)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("mm", "bmm"), _mm),
    **dict.fromkeys(("addmm", "_addmm_activation", "baddbmm"), _addmm),
    **dict.fromkeys(("mv", "addmv"), _mv),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys((*NORMALISING, "native_group_norm"), _channel_norm),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm),
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "mkldnn_rnn_layer": _recurrent,
}
# Shown even if no input goes in: embedded places, say.
_BY_CONSTANTS = frozenset({"embedding", "native_layer_norm", "_fused_rms_norm", "native_group_norm"})


def uses_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Use] | None:
    """The uses of the tensors that go into an operation; None for one that is not known."""
    if is_pointwise(func):
        return [Use(one, None, {}, _from_end(one)) for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
    rule = _RULES.get(func.overloadpacket.__name__)
    if rule is None:
        return None
    names = [argument.name for argument in func._schema.arguments]
    defaults = {each.name: each.default_value for each in func._schema.arguments if each.has_default_value()}
    uses = rule(defaults | dict(zip(names, args, strict=False)) | dict(kwargs))
    return [use for use in uses if isinstance(use.weight, Tensor)]


def is_shown_by_constants(func: Any) -> bool:
    """Whether an operation's result shows units although nothing but parameters and constants goes in."""
    return func.overloadpacket.__name__ in _BY_CONSTANTS
