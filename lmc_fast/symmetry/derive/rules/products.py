"""Matrix products: what is summed over is one dimension of both."""

from __future__ import annotations

from ..look import Dims, Look, rule
from ..terms import Term

__all__ = ["linear", "matmul"]


@rule("aten.linear")
def linear(look: Look) -> Dims:
    """[..., i], [o, i], [o] -> [..., o]."""
    dims, weight = look.dims("input"), look.dims("weight")
    look.same(dims[-1], weight[-1], "summed over")
    look.inside += [dims[:-1], weight[:-1]]
    result = [*dims[:-1], *weight[:-1]]
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
    look.same(one[-1], inner, "summed over")
    batch = look.broadcast([one[:-2], other[:-2]])
    # What is summed over is gone from either side, though its units may stand again on the other.
    look.inside += [[*batch, *one[-2:-1]], [*batch, *(other[-1:] if len(other) > 1 else [])]]
    return [*batch, *one[-2:-1], *(other[-1:] if len(other) > 1 else [])]


@rule("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm")
def added(look: Look) -> Dims:
    """[b], [..., a, k], [..., k, b] -> [..., a, b]."""
    names = [name for name in look.arguments if look.has(name)]
    start, one, other = (look.dims(name) for name in names[:3])
    result = product(look, one, other)
    if look.name == "aten.addbmm":
        result = result[1:]
    return look.broadcast([result, start])


@rule("aten.einsum")
def einsum(look: Look) -> Dims:
    """By its equation: a letter is one dimension, those that the result lacks are summed over."""
    given = [look.of(node) for node in look["tensors"]]
    sides = str(look["equation"]).replace(" ", "").split("->")
    letters: list[list[str]] = []
    known: dict[str, Term] = {}
    for side, dims in zip(sides[0].split(","), given, strict=True):
        names = list(side)
        if "..." in side:
            ahead, behind = side.split("...")
            rest = len(dims) - len(ahead) - len(behind)
            names = [*ahead, *(f".{rest - k}" for k in range(rest)), *behind]
        letters.append(names)
        for letter, dim in zip(names, dims, strict=True):
            known[letter] = look.same(known[letter], dim, "the same letter") if letter in known else dim
    dots = sorted((name for name in known if name.startswith(".")), key=lambda name: -int(name[1:]))
    if len(sides) == 1:
        flat = [letter for names in letters for letter in names]
        result = [*dots, *sorted(letter for letter in known if flat.count(letter) == 1 and letter not in dots)]
    elif "..." in sides[1]:
        ahead, behind = sides[1].split("...")
        result = [*ahead, *dots, *behind]
    else:
        result = list(sides[1])
    summed = set(known) - set(result)
    for names in letters:
        look.inside.append([known[letter] for letter in names if letter not in summed])
    return [known[letter] for letter in result]


@rule("aten.bilinear", "aten._trilinear")
def bilinear(look: Look) -> Dims:
    """[..., i], [..., j], [o, i, j] -> [..., o]."""
    one, other, weight, bias = (look.dims(name) for name in ("input1", "input2", "weight", "bias"))
    look.same(one[-1], weight[1], "summed over")
    look.same(other[-1], weight[2], "summed over")
    return look.broadcast([[*look.broadcast([one[:-1], other[:-1]]), weight[0]], bias])


@rule("aten.outer", "aten.ger")
def outer(look: Look) -> Dims:
    """[a], [b] -> [a, b]."""
    one, other = _two(look)
    return [*one, *other]


@rule("aten.scaled_dot_product_attention")
def attention(look: Look) -> Dims:
    """[..., h, l, k], [..., g, s, k], [..., g, s, v] -> [..., h, l, v]; h is g or, with enable_gqa, g times some."""
    query, key, value = (look.dims(name) for name in ("query", "key", "value"))
    look.same(query[-1], key[-1], "summed over")
    look.same(key[-2], value[-2], "summed over")
    heads = look.broadcast([key[:-2], value[:-2]])
    if look["enable_gqa"] and heads[-1].size != query[-3].size:
        times = look.terms.atom(query[-3].size // heads[-1].size)
        heads = [*heads[:-1], look.terms.product([heads[-1], times])]
    batch = look.broadcast([query[:-2], heads])
    if look.has("attn_mask"):
        look.broadcast([[*batch, query[-2], key[-2]], look.dims("attn_mask")])
    look.inside += [[*batch, query[-2]], [*batch, key[-2]], [*batch, value[-1]]]
    if look["is_causal"]:
        look.pin([query[-2], key[-2]], "each sees those before it")
    return [*batch, query[-2], value[-1]]
