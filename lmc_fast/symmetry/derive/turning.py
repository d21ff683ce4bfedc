"""Which dimensions may turn: what an operation that is linear in them leaves free, and what acts entry by entry.

An orthogonal map Q along a dimension of all that goes in has to give the same along the result, or nothing where the
dimension is summed over. Operations that are not known act entry by entry on all that they touch. What is the same for
all entries of a dimension (a mean, a constant that is added) asks for Q 1 = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from .look import Dims, Look, packet_name
from .terms import Pin, Term

__all__ = ["SQUARES", "TURNS", "Turn", "mark", "squared_over"]

EXPANDS = ("aten.expand", "aten.expand_as", "aten.broadcast_to")
SCALES = ("aten.mul", "aten.multiply", "aten.div", "aten.divide", "aten.true_divide")
SQUARES = ("aten.pow", "aten.square", "aten.mul")


@dataclass
class Turn:
    """What an operation asks of dimensions.

    Attributes:
        stiff: those that it acts on entry by entry.
        ones: those in which it sees, or adds, what is the same for all entries.
    """

    stiff: Dims = field(default_factory=list)
    ones: Dims = field(default_factory=list)


# From a look at an operation, with the dimensions of its results.
TurnRule = Callable[[Look, list[Dims]], Turn]
TURNS: dict[str, TurnRule] = {}


def turns(*names: str) -> Callable[[TurnRule], TurnRule]:
    """Register what operations ask of dimensions, by their names in the graph."""

    def register(function: TurnRule) -> TurnRule:
        for name in names:
            assert name not in TURNS, f"{name} has two rules"
            TURNS[name] = function
        return function

    return register


def mark(look: Look, results: list[Dims], reason: Pin | None = None) -> None:
    """Tell the terms what an operation asks of them.

    Args:
        reason: why it acts entry by entry, where more is known than the operation.
    """
    rule = TURNS.get(look.name)
    asked = _all(look, results) if rule is None else rule(look, results)
    why = reason or Pin(look.name, look.where, "acts entry by entry")
    for term in asked.stiff:
        look.terms.stiffen(term, why)
    for term in asked.ones:
        look.terms.keep_ones(term)


def _all(look: Look, results: list[Dims]) -> Turn:
    given = [dims for node in look.tensors() for dims in _each(look.of(node))]
    return Turn([term for dims in (*given, *results) for term in dims])


def _each(known: Any) -> list[Dims]:
    return known if known and isinstance(known[0], list) else [known]


@turns(
    *("aten.clone", "aten._to_copy", "aten.contiguous", "aten.alias", "aten.detach", "aten.lift_fresh_copy"),
    *("aten.to", "aten.type_as", "aten.positive", "aten.dropout", "aten.native_dropout", "aten.feature_dropout"),
    *("aten.alpha_dropout", "aten.feature_alpha_dropout", "aten.neg", "aten.negative", "aten.conj"),
    *("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.ravel"),
    *("aten.reshape_as", "aten.view_as", "aten.view_copy", "aten.permute", "aten.numpy_T", "aten.permute_copy"),
    *("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.t", "aten.mT", "aten.adjoint"),
    *("aten.squeeze", "aten.unsqueeze", "aten.squeeze_copy", "aten.unsqueeze_copy", "aten.slice", "aten.narrow"),
    *("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split", "aten.unsafe_split"),
    *("aten.unsafe_chunk", "aten.unbind", "aten.select", "aten.cat", "aten.concat", "aten.concatenate", "aten.stack"),
    *("aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.empty", "aten.avg_pool1d", "aten.avg_pool2d"),
    *("aten.avg_pool3d", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d"),
    *("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.upsample_nearest1d", "aten.upsample_nearest2d"),
    *("aten.upsample_nearest3d", "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.upsample_linear1d"),
    *("aten.upsample_trilinear3d", "aten._upsample_nearest_exact2d", "aten._upsample_bilinear2d_aa"),
    *("aten._upsample_bicubic2d_aa", "aten.im2col", "aten.col2im", "aten.flip", "aten.roll", "aten.unfold"),
)
def moved(look: Look, results: list[Dims]) -> Turn:
    """Entries at other places, or alike sums of entries at several places, which are pinned: nothing of the rest."""
    return Turn()


@turns("aten.embedding", "aten.index_select", "aten.index")
def looked_up(look: Look, results: list[Dims]) -> Turn:
    """[entries, n] -> [..., n]: the dimensions that are looked up, and those of the numbers, stay apart."""
    source = look.of(look.tensors()[0])
    if look.name == "aten.embedding":
        looked = [0]
    elif look.name == "aten.index_select":
        looked = [look.dim("dim", len(source))]
    else:
        looked = [d for d, each in enumerate(look["indices"]) if isinstance(each, Node)]
    numbers = [term for node in look.tensors()[1:] for term in look.of(node)]
    return Turn([*(source[d] for d in looked), *numbers])


@turns("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy", "aten.repeat", "aten.tile")
def repeated(look: Look, results: list[Dims]) -> Turn:
    """[..., 1, ...] -> [..., n, ...]: the same at each of n, which is seen by all but what only scales by it."""
    if look.name in EXPANDS and all(packet_name(user.target) in SCALES for user in look.node.users):
        return Turn()
    given = [look.of(look.tensors()[0])]
    known = {atom for dims in given for term in dims for atom in look.terms.atoms(term)}
    return Turn(
        ones=[atom for dims in results for term in dims for atom in look.terms.atoms(term) if atom not in known]
    )


@turns("aten.repeat_interleave")
def each_repeated(look: Look, results: list[Dims]) -> Turn:
    """[n] -> [n * k]: each k times."""
    return repeated(look, results) if isinstance(look["repeats"], int) else _all(look, results)


@turns("aten.constant_pad_nd", "aten.pad")
def padded(look: Look, results: list[Dims]) -> Turn:
    """[n] -> [before + n + after]: zeros are what they were."""
    is_zero = (look["mode"] or "constant") == "constant" and not look["value"]
    return Turn() if is_zero else _all(look, results)


def _aligned(look: Look, results: list[Dims]) -> Iterator[tuple[Term, list[bool]]]:
    """For each dimension of an entry by entry operation's result, which of the operands have it."""
    result = results[0]
    nodes = [value for name, value in look.arguments.items() if isinstance(value, Node)]
    nodes = [node for node in nodes if node not in look.detached]
    for place, term in enumerate(reversed(result)):
        yield term, [_has(node, place) for node in nodes]


def _has(node: Node, place: int) -> bool:
    """Whether a value has a dimension of its own, counted from the last, and is not the same all along it."""
    shape = node.meta["val"].shape
    if place >= len(shape) or shape[-1 - place] == 1:
        return False
    if node.op == "call_function" and packet_name(node.target) in EXPANDS:
        source: Any = node.args[0]
        return _has(source, place)
    return True


@turns("aten.add", "aten.sub", "aten.subtract", "aten.rsub")
def summed(look: Look, results: list[Dims]) -> Turn:
    """[..., n], [..., n or 1] -> [..., n]: linear where both have n; a number is added to all of n elsewhere."""
    several = len([value for value in look.arguments.values() if isinstance(value, Node)]) > 1
    asked = Turn()
    if not several and not look["other"]:
        return asked
    for term, has in _aligned(look, results):
        if not all(has) or not (several or look.detached):
            asked.ones.append(term)
    return asked


@turns(*SCALES, "aten.pow", "aten.square")
def scaled(look: Look, results: list[Dims]) -> Turn:
    """[..., n], [..., n or 1] -> [..., n]: linear in what one of the two has alone.

    A square that is summed over n alone is the same, whatever turns n.
    """
    over = squared_over(look.node)
    rank = len(results[0])
    if over is not None:
        return Turn([term for d, term in enumerate(results[0]) if d not in over])
    if look.name in ("aten.pow", "aten.square") or look["rounding_mode"]:
        return _all(look, results)
    nodes = [value for value in look.arguments.values() if isinstance(value, Node)]
    if len(nodes) == 2 and nodes[0] is nodes[1]:
        return _all(look, results)
    asked = Turn()
    divisor = look["other"] if "div" in look.name else None
    dividend = look["self"]
    for place, (term, has) in enumerate(_aligned(look, results)):
        assert place < rank
        by = isinstance(divisor, Node) and divisor not in look.detached and _has(divisor, place)
        over_number = divisor is not None and not isinstance(dividend, Node)
        if (all(has) and len(has) > 1) or by or over_number:
            asked.stiff.append(term)
        elif not any(has):
            asked.ones.append(term)
    return asked


def squared_over(node: Node) -> set[int] | None:
    """Of a square the dimensions that all its uses sum over; None of anything else."""
    name = packet_name(node.target)
    is_square = (
        name == "aten.square"
        or (name == "aten.pow" and len(node.args) > 1 and node.args[1] in (2, 2.0))
        or (name == "aten.mul" and len(node.args) > 1 and node.args[0] is node.args[1])
    )
    if not is_square or name not in SQUARES or not node.users:
        return None
    rank = len(node.meta["val"].shape)
    found: set[int] | None = None
    for user in node.users:
        if packet_name(user.target) not in ("aten.mean", "aten.sum") or len(user.args) < 2:
            return None
        given: Any = user.args[1]
        over = {d % rank for d in ([given] if isinstance(given, int) else given or [])}
        if not over or found not in (None, over):
            return None
        found = over
    return found


@turns("aten.mean", "aten.sum", "aten.nansum", "aten.nanmean")
def totalled(look: Look, results: list[Dims]) -> Turn:
    """[..., n, ...] -> without n: the part along the vector of ones, unless squares are summed."""
    node = look.tensors()[0]
    if "nan" in look.name:
        return _all(look, results)
    if squared_over(node) is not None:
        return Turn()
    return Turn(ones=_gone(look))


def _gone(look: Look) -> Dims:
    dims, given = look.of(look.tensors()[0]), look["dim"]
    if given is None or given == []:
        return dims
    return [dims[d % len(dims)] for d in ([given] if isinstance(given, int) else given)]


@turns("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")
def spread(look: Look, results: list[Dims]) -> Turn:
    """[..., n, ...] -> without n: lengths around the mean."""
    gone = _gone(look)
    return Turn([term for term in look.of(look.tensors()[0]) if not any(term is each for each in gone)], gone)


@turns("aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm")
def lengths(look: Look, results: list[Dims]) -> Turn:
    """[..., n, ...] -> without n: a length stays what it is."""
    order = look["ord"] if look["ord"] is not None else look["p"]
    if order not in (None, 2, 2.0):
        return _all(look, results)
    gone = _gone(look)
    return Turn([term for term in look.of(look.tensors()[0]) if not any(term is each for each in gone)])


@turns("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def normalised(look: Look, results: list[Dims]) -> Turn:
    """[..., n], gain [n], bias [n] -> [..., n]: commutes with what turns n, but for the gain; means ask for ones."""
    dims = results[0]
    kept = len(dims) - len(look["normalized_shape"])
    own = dims[kept:]
    gain = look["weight"]
    is_stiff = isinstance(gain, Node) and gain not in look.detached
    if len(own) > 1 and look.has("bias"):
        is_stiff = True
    return Turn([*dims[:kept], *(own if is_stiff else [])], own if "layer_norm" in look.name else [])


@turns("aten.bilinear")
def bilinear(look: Look, results: list[Dims]) -> Turn:
    """[..., i], [..., j], [o, i, j] -> [..., o]: what both have ahead is multiplied entry by entry."""
    ahead = results[0][:-1]
    return Turn(ahead, ahead if look.has("bias") else [])


@turns("aten.linear")
def linear(look: Look, results: list[Dims]) -> Turn:
    """[..., i], [o, i], [o] -> [..., o]; a bias is the same for all that is ahead."""
    return Turn(ones=results[0][:-1] if look.has("bias") else [])


@turns("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten.outer", "aten.ger")
def multiplied(look: Look, results: list[Dims]) -> Turn:
    """[..., a, k], [..., k, b] -> [..., a, b]: what both have ahead is multiplied entry by entry."""
    names = [name for name in look.arguments if look.has(name)][-2:]
    one, other = (look.dims(name) for name in names)
    return Turn(_shared(one[:-2], other[:-2]))


def _shared(one: Dims, other: Dims) -> Dims:
    """Dimensions that both have, counted from the last."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return [a for a, b in pairs if a.size > 1 and b.size > 1]


@turns("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm")
def added(look: Look, results: list[Dims]) -> Turn:
    """[b], [..., a, k], [..., k, b] -> [..., a, b]."""
    names = [name for name in look.arguments if look.has(name)]
    start, one, other = (look.dims(name) for name in names[:3])
    ones = [
        term for place, term in enumerate(reversed(results[0])) if place >= len(start) or start[-1 - place].size == 1
    ]
    return Turn(_shared(one[:-2], other[:-2]), ones)


@turns("aten.einsum")
def einsum(look: Look, results: list[Dims]) -> Turn:
    """By its equation: a letter of two factors is linear where it is summed over, entry by entry where it is kept."""
    sides = str(look["equation"]).replace(" ", "").split("->")
    given = sides[0].split(",")
    if "." in sides[0] or len(sides) == 1:
        return _all(look, results)
    asked = Turn()
    known: dict[str, Term] = {}
    for side, node in zip(given, look["tensors"], strict=True):
        for letter, term in zip(side, look.of(node), strict=True):
            known[letter] = known[letter] if letter in known and term.size == 1 else term
    for letter, term in known.items():
        times = [side.count(letter) for side in given if letter in side]
        if max(times) > 1 or len(times) > 2 or (len(times) == 2 and letter in sides[1]):
            asked.stiff.append(term)
        elif len(times) == 1 and letter not in sides[1]:
            asked.ones.append(term)
    return asked


@turns("aten.scaled_dot_product_attention")
def attention(look: Look, results: list[Dims]) -> Turn:
    """[..., h, l, k], [..., g, s, k], [..., g, s, v] -> [..., h, l, v]: linear in k and v, in nothing else."""
    query, key, value = (look.dims(name) for name in ("query", "key", "value"))
    mask = look.dims("attn_mask")
    return Turn([*query[:-1], *key[:-1], *value[:-1], *mask])


@turns("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
def convolution(look: Look, results: list[Dims]) -> Turn:
    """[batch, i, ...], [o, i, ...], [o] -> [batch, o, ...]: as a matrix product, in one group."""
    dims, weight = look.dims("input"), look.dims("weight")
    if int(look["groups"] or 1) != 1 or look["transposed"]:
        return _all(look, results)
    ahead = len(dims) - len(weight) + 1
    return Turn(ones=dims[:ahead] if look.has("bias") else [])


@turns("aten.masked_fill", "aten.where")
def masked(look: Look, results: list[Dims]) -> Turn:
    """[..., n], mask [..., 1] -> [..., n]: whole places are set to 0, or taken from one of two."""
    mask: Any = look["mask"] if look.name == "aten.masked_fill" else look["condition"]
    if look.name == "aten.masked_fill":
        others: list[Any] = [look["self"]] if not isinstance(look["value"], (Node, bool)) and look["value"] == 0 else []
    else:
        others = [each for each in (look["self"], look["other"]) if isinstance(each, Node)]
        others = others if len(others) == 2 else []
    stiff = [
        term
        for place, term in enumerate(reversed(results[0]))
        if _has(mask, place) or not others or not all(_has(each, place) for each in others)
    ]
    return Turn(stiff)


@turns(
    *("aten.full", "aten.ones", "aten.full_like", "aten.ones_like", "aten.new_full", "aten.new_ones"),
    *("aten.scalar_tensor", "aten.fill"),
)
def uniform(look: Look, results: list[Dims]) -> Turn:
    """-> [...]: one number everywhere."""
    return Turn(ones=[term for dims in results for term in dims])
