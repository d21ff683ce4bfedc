"""Values put together, and parts taken out of them."""

from __future__ import annotations

from ..look import Dims, Look, rule
from .shapes import piece, run_of

__all__ = ["cat"]


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


@rule("aten.slice", "aten.narrow", carries=True)
def cut(look: Look) -> Dims:
    """[n] -> the units from start to end; every k-th is one of a product."""
    node, shape = look.tensors()[0], look.shape
    dims = look.of(node)
    dim = look.dim("dim", len(dims))
    size = dims[dim].size
    if shape[dim] == size:
        return dims
    start, step = (look["start"], 1) if look.name == "aten.narrow" else (look["start"] or 0, look["step"] or 1)
    if not isinstance(start, int):
        look.pin([dims[dim]], "cut at a place that is computed")
        dims[dim] = look.told(shape[dim], "cut at a place that is computed")
        return dims
    start = min(start + size if start < 0 else start, size)
    if step == 1:
        dims = run_of(look, node, dim, start, shape[dim])
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


@rule(
    *("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split", "aten.unsafe_split"),
    "aten.unsafe_chunk",
    carries=True,
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


@rule("aten.unbind", carries=True)
def unbind(look: Look) -> list[Dims]:
    """[k, n] -> k times [n]: each has units of its own, where n stands beside k wherever it is."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dim", len(dims))
    return [picked(look, dims, dim, index) for index in range(dims[dim].size)]


@rule("aten.select", carries=True)
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
        if look.name == "aten.pad" and look["mode"] != "constant" and max(before, after) > 0:
            look.pin([term], "padded with copies of its own units")
        if all(atom.pin for atom in look.terms.atoms(term)) and max(before, after) > 0:
            # As one: what stays anyway is not cut by what is added.
            dims[dim] = look.told(look.shape[dim], "padded")
            continue
        sides = [look.terms.atom(max(0, amount)) for amount in (before, after)]
        for side in sides:
            side.is_unit = side.size == 1
        dims[dim] = look.terms.sum([sides[0], term, sides[1]])
    return dims


@rule("aten.flip", "aten.roll")
def moved_about(look: Look) -> Dims:
    """[n] -> [n] with entries at other places: those dimensions are pinned."""
    dims = look.of(look.tensors()[0])
    moved = look["dims"] or list(range(len(dims)))
    for d in moved:
        look.mixed(dims, d % len(dims))
    look.pin([dims[d] for d in moved], "its units change places")
    return dims


@rule("aten.tril", "aten.triu")
def one_side(look: Look) -> Dims:
    """[..., a, b] -> the same, where entries on one side of the diagonal are left out: a and b are pinned."""
    dims = look.of(look.tensors()[0])
    look.pin(dims[-2:], "entries on one side of a diagonal are left out")
    return dims


@rule("aten.diagonal", "aten.diag_embed")
def diagonal(look: Look) -> Dims:
    """[n, n] -> [n] and back, both dimensions the same."""
    dims, rank = look.of(look.tensors()[0]), max(len(look.tensors()[0].meta["val"].shape), len(look.shape))
    places = sorted(look.dim(name, rank, default) for name, default in (("dim1", 0), ("dim2", 1)))
    if look["offset"]:
        return look.all_pinned("beside the diagonal")[0]
    if look.name == "aten.diag_embed":
        kept = dims[:-1]
        for place in places:
            kept.insert(place, dims[-1])
        return kept
    if dims[places[0]].size != dims[places[1]].size:
        return look.all_pinned("the diagonal of a rectangle")[0]
    return [
        *(dim for d, dim in enumerate(dims) if d not in places),
        look.same(dims[places[0]], dims[places[1]], "on the diagonal"),
    ]


@rule("aten.unfold")
def windows(look: Look) -> Dims:
    """[..., n, ...] -> [..., windows, ..., k]: places of n are told apart, others stay."""
    dims = look.of(look.tensors()[0])
    dim = look.dim("dimension", len(dims))
    look.pin([dims[dim]], "cut in windows")
    return [*dims[:dim], look.told(look.shape[dim], "windows"), *dims[dim + 1 :], look.told(look.shape[-1], "windows")]


@rule("aten.slice_scatter", "aten.select_scatter")
def written(look: Look) -> Dims:
    """[n] with the entries of another value in place of a run, or of one."""
    dims, other = (look.of(node) for node in look.tensors())
    dim = look.dim("dim", len(dims))
    if look.name == "aten.select_scatter":
        other.insert(dim, look.terms.atom(1))
    for d, (a, b) in enumerate(zip(dims, other, strict=True)):
        if d != dim:
            look.same(a, b)
    start, size = look["start"] or 0, dims[dim].size
    look.mixed(dims, dim)
    if look.name == "aten.select_scatter" or not isinstance(start, int) or look["step"] != 1:
        look.pin([dims[dim], other[dim]], "written over in part")
        return dims
    run = piece(look, dims[dim], start + size if start < 0 else start, other[dim].size)
    look.terms.unify(run, other[dim], look.why("written in"))
    return dims
