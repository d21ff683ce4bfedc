"""Matrix products: what is summed over is one dimension of both."""

from __future__ import annotations

from ..look import Dims, Look, rule
from ..terms import Term

__all__ = ["linear", "matmul"]


@rule("aten.linear")
def linear(look: Look) -> Dims:
    """[..., i], [o, i], [o] -> [..., o]."""
    dims, weight = look.dims("input"), look.dims("weight")
    summed = look.same(dims[-1], weight[-1], "summed over")
    result = [*dims[:-1], *weight[:-1]]
    look.inside.append([*result, summed])
    return look.broadcast([result, look.dims("bias")])


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot")
def matmul(look: Look) -> Dims:
    """[..., a, k], [..., k, b] -> [..., a, b]."""
    return product(look, *_two(look))


def _two(look: Look) -> tuple[Dims, Dims]:
    """Both factors; a value times itself is one node."""
    names = [name for name in look.arguments if look.has(name)]
    return look.dims(names[0]), look.dims(names[1])


def product(look: Look, one: Dims, other: Dims) -> Dims:
    """Of two values with one dimension or more each."""
    inner = other[0] if len(other) == 1 else other[-2]
    summed = look.same(one[-1], inner, "summed over")
    batch = look.broadcast([one[:-2], other[:-2]])
    result = [*batch, *one[-2:-1], *(other[-1:] if len(other) > 1 else [])]
    # Before the sum: a unit of an owner that stands there twice, as two different ones, is no unit's own.
    look.inside.append([*result, summed])
    return result


@rule("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm")
def added(look: Look) -> Dims:
    """[b], [..., a, k], [..., k, b] -> [..., a, b]."""
    names = [name for name in look.arguments if look.has(name)]
    start, one, other = (look.dims(name) for name in names[:3])
    result = product(look, one, other)
    result = result[1:] if look.name == "aten.addbmm" else result
    return look.broadcast([result, start])


@rule("aten.einsum")
def einsum(look: Look) -> Dims:
    """By its equation: a letter is one dimension, those that the result lacks are summed over."""
    given = [look.of(node) for node in look["tensors"]]
    sides = str(look["equation"]).replace(" ", "").split("->")
    flat: list[str] = []
    known: dict[str, Term] = {}
    for side, dims in zip(sides[0].split(","), given, strict=True):
        names = list(side)
        if "..." in side:
            ahead, behind = side.split("...")
            rest = len(dims) - len(ahead) - len(behind)
            names = [*ahead, *(f".{rest - k}" for k in range(rest)), *behind]
        flat += names
        for letter, dim in zip(names, dims, strict=True):
            known[letter] = look.same(known[letter], dim, "the same letter") if letter in known else dim
    dots = sorted((name for name in known if name.startswith(".")), key=lambda name: -int(name[1:]))
    if len(sides) == 1:
        result = [*dots, *sorted(letter for letter in known if flat.count(letter) == 1 and letter not in dots)]
    elif "..." in sides[1]:
        ahead, behind = sides[1].split("...")
        result = [*ahead, *dots, *behind]
    else:
        result = list(sides[1])
    look.inside.append(list(known.values()))
    return [known[letter] for letter in result]


@rule("aten.bilinear")
def bilinear(look: Look) -> Dims:
    """[..., i], [..., j], [o, i, j] -> [..., o]."""
    one, other, weight, bias = (look.dims(name) for name in ("input1", "input2", "weight", "bias"))
    summed = [look.same(one[-1], weight[1], "summed over"), look.same(other[-1], weight[2], "summed over")]
    result = [*look.broadcast([one[:-1], other[:-1]]), weight[0]]
    look.inside.append([*result, *summed])
    return look.broadcast([result, bias])


@rule("aten.cdist", "aten._cdist_forward")
def distances(look: Look) -> Dims:
    """[..., a, k], [..., b, k] -> [..., a, b]."""
    one, other = look.dims("x1"), look.dims("x2")
    return product(look, one, [*other[:-2], other[-1], other[-2]])


@rule("aten.outer", "aten.ger")
def outer(look: Look) -> Dims:
    """[a], [b] -> [a, b]."""
    one, other = _two(look)
    return [*one, *other]


@rule("aten.scaled_dot_product_attention")
def attention(look: Look) -> Dims:
    """[..., h, l, k], [..., g, s, k], [..., g, s, v] -> [..., h, l, v]; h is g or, with enable_gqa, g times some."""
    query, key, value = (look.dims(name) for name in ("query", "key", "value"))
    summed = look.same(query[-1], key[-1], "summed over")
    seen = look.same(key[-2], value[-2], "summed over")
    heads = look.broadcast([key[:-2], value[:-2]])
    if look["enable_gqa"] and heads[-1].size != query[-3].size:
        times = look.terms.atom(query[-3].size // heads[-1].size)
        heads = [*heads[:-1], look.terms.product([heads[-1], times])]
    batch = look.broadcast([query[:-2], heads])
    scores = [*batch, query[-2], seen]
    if look.has("attn_mask"):
        look.broadcast([scores, look.dims("attn_mask")])
    look.inside += [[*scores, summed], scores, [*batch, query[-2]], [*scores, value[-1]]]
    if look["is_causal"]:
        look.pin([query[-2], key[-2]], "each sees those before it")
    return [*batch, query[-2], value[-1]]


@rule("aten._grouped_mm", "aten.grouped_mm", "transformers.grouped_mm_fallback", reads=True)
def grouped(look: Look) -> Dims:
    """[rows, k], [g, k, b], where each of g has its rows end -> [rows, b]: rows in the order of their units of g."""
    nodes = look.tensors()
    one, other, ends = look.of(nodes[0]), look.of(nodes[1]), look.numbers(nodes[-1])
    if ends is None or ends.kind != "end" or [len(nodes), len(one), len(other)] != [3, 2, 3]:
        return look.all_pinned("rows of another matrix each")[0]
    look.unread(*nodes[:2])
    in_order = [each for each in look.numbered.values() if each.is_sorted and each.among is ends.among]
    in_order = [each for each in in_order if each.dims[0].found() is one[0].found()]
    if not in_order:
        return look.all_pinned("rows of another matrix each")[0]
    look.looked_up.append(in_order[0])
    look.terms.unify(other[0], ends.of, look.why("each has rows of its own"))
    summed = look.same(one[1], other[1], "summed over")
    look.inside.append([one[0], summed, other[2]])
    return [one[0], other[2]]
