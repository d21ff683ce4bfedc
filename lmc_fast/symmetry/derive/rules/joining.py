"""Values put together, and parts taken out of them."""

from __future__ import annotations

from torch.fx import Node

from ..look import Dims, Look, rule
from ..terms import Term

__all__ = ["cat", "piece"]


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(look: Look) -> Dims:
    """[..., a, ...], [..., b, ...] -> [..., a + b, ...]; all other dimensions are the same."""
    given = [look.of(node) for node in look["tensors"]]
    rank = max(map(len, given))
    # An empty tensor of one dimension goes with any.
    given = [dims for dims in given if len(dims) == rank and (rank > 1 or dims[0].size)] or given[:1]
    dim = look.dim("dim", rank)
    result = list(given[0])
    for dims in given[1:]:
        result = [a if d == dim else look.same(a, b) for d, (a, b) in enumerate(zip(result, dims, strict=True))]
    result[dim] = look.terms.sum(dims[dim] for dims in given)
    return result


@rule("aten.stack")
def stack(look: Look) -> Dims:
    """k times [...] -> [..., k, ...]: the k are told apart, all other dimensions are the same."""
    given = [look.of(node) for node in look["tensors"]]
    result = look.broadcast(given)
    dim = look.dim("dim", len(result) + 1)
    return [*result[:dim], look.told(len(given), "each is another value"), *result[dim:]]


@rule("aten.slice", "aten.narrow")
def cut(look: Look) -> Dims:
    """[n] -> the units from start to end; every k-th is one of a product."""
    dims, shape = look.of(look.tensors()[0]), look.shape
    dim = look.dim("dim", len(dims))
    size = dims[dim].size
    if shape[dim] == size:
        return dims
    if look.name == "aten.narrow":
        start, step = look["start"], 1
    else:
        start, step = look["start"] or 0, look["step"] or 1
    if not isinstance(start, int) or isinstance(step, Node):
        look.pin([dims[dim]], "cut at a place that is computed")
        dims[dim] = look.told(shape[dim], "cut at a place that is computed")
        return dims
    start = start + size if start < 0 else start
    if step == 1:
        dims[dim] = piece(look, dims[dim], start, shape[dim])
    elif size % step == 0 and start < step and shape[dim] == size // step:
        units = look.terms.atom(size // step)
        every = look.told(step, "every other unit is taken")
        look.terms.unify(dims[dim], look.terms.product([units, every]), look.why("every other unit is taken"))
        dims = [d if k == dim else look.terms.instance(d, every, start) for k, d in enumerate(dims)]
        dims[dim] = look.terms.instance(units, every, start)
    else:
        look.pin([dims[dim]], "cut in steps")
        dims[dim] = look.told(shape[dim], "cut in steps")
    return dims


def piece(look: Look, term: Term, start: int, length: int) -> Term:
    """A run of units."""
    why = look.why("cut within a unit")
    _, rest = look.terms.cut(term, start, why)
    return look.terms.cut(rest, length, why)[0]


@rule(
    "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split", "aten.unsafe_split", "aten.unsafe_chunk"
)
def split(look: Look) -> list[Dims]:
    """[a + b] -> [a], [b]."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims))
    results, start = [], 0
    for shape in look.shapes:
        results.append([*dims[:dim], piece(look, dims[dim], start, shape[dim]), *dims[dim + 1 :]])
        start += shape[dim]
    return results


@rule("aten.unbind")
def unbind(look: Look) -> list[Dims]:
    """[k, n] -> k times [n]: each has units of its own, where n stands beside k wherever it is."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims))
    return [picked(look, dims, dim, index) for index in range(dims[dim].size)]


@rule("aten.select")
def select(look: Look) -> Dims:
    """[k, n] -> [n] at one of k."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims))
    index = look["index"]
    if not isinstance(index, int):
        look.pin([dims[dim]], "one is picked by a number that is computed")
        return [*dims[:dim], *dims[dim + 1 :]]
    return picked(look, dims, dim, index % max(1, dims[dim].size))


def picked(look: Look, dims: Dims, dim: int, index: int) -> Dims:
    """All dimensions but one, at an index of that one."""
    look.pin([dims[dim]], "one of them is picked")
    rest = [*dims[:dim], *dims[dim + 1 :]]
    atoms = look.terms.factors(dims[dim])
    if len(atoms) != 1 or not atoms[0].is_atom:
        return rest
    return [look.terms.instance(term, atoms[0], index) for term in rest]


@rule("aten.constant_pad_nd", "aten.pad")
def pad(look: Look) -> Dims:
    """[n] -> [before + n + after]: what is padded is the same everywhere."""
    dims = look.of(look.tensors()[0])
    amounts = look["pad"]
    for k in range(len(amounts) // 2):
        dim = len(dims) - 1 - k
        before, after = int(amounts[2 * k]), int(amounts[2 * k + 1])
        term = dims[dim]
        if min(before, after) < 0:
            term = piece(look, term, max(0, -before), term.size + min(before, 0) + min(after, 0))
        sides = [look.terms.atom(max(0, amount)) for amount in (before, after)]
        if look.name == "aten.pad" and look["mode"] != "constant" and max(before, after) > 0:
            look.pin([term], "padded with copies of its own units")
        dims[dim] = look.terms.sum([sides[0], term, sides[1]])
    return dims


@rule(
    "aten.flip", "aten.roll", "aten.rot90", "aten.tril", "aten.triu", "aten.diagonal", "aten.as_strided", "aten.unfold"
)
def moved_about(look: Look) -> Dims:
    """[n] -> [n] with entries at other places: those dimensions are pinned."""
    dims = look.of(look.tensors()[0])
    shifted = look["dims"]
    if look.name in ("aten.flip", "aten.roll") and shifted:
        look.pin([dims[d] for d in shifted], "its units change places")
        return dims
    if look.name in ("aten.tril", "aten.triu"):
        look.pin(dims[-2:], "entries on one side of a diagonal are left out")
        return dims
    return look.all_pinned("its entries change places")[0]


@rule("aten.slice_scatter", "aten.select_scatter", "aten.copy", "aten.masked_fill", "aten.masked_scatter")
def written(look: Look) -> Dims:
    """[n] with entries of another value written in."""
    dims = look.of(look.tensors()[0])
    if look.name in ("aten.copy", "aten.masked_fill"):
        return look.broadcast(look.of(node) for node in look.tensors())
    dim = look.dim("dim", len(dims))
    other = look.of(look.tensors()[1])
    if look.name == "aten.slice_scatter" and len(other) == len(dims):
        for d, (a, b) in enumerate(zip(dims, other, strict=True)):
            if d != dim:
                look.same(a, b)
        start = look["start"] or 0
        look.terms.unify(
            piece(look, dims[dim], start % max(1, dims[dim].size), other[dim].size), other[dim], look.why("written in")
        )
        return dims
    return look.all_pinned("written over in part")[0]
