"""Matrices as wholes, and vectors against each other: lengths, angles, determinants, inverses."""

from __future__ import annotations

from ..look import Dims, Look, rule
from .products import product

__all__ = ["powered"]


@rule("aten.matrix_exp", "aten.linalg_matrix_exp", "aten.matrix_power", "aten.linalg_matrix_power")
def powered(look: Look) -> Dims:
    """[..., n, n] -> [..., n, n]: rows and columns are the same units."""
    dims = look.of(look.tensors()[0])
    units = look.same(dims[-2], dims[-1], "rows and columns of a power")
    return [*dims[:-2], units, units]


@rule(
    *("aten.det", "aten.linalg_det", "aten.logdet", "aten.slogdet", "aten.linalg_slogdet", "aten.trace"),
)
def determinants(look: Look) -> Dims | list[Dims]:
    """[..., n, n] -> [...]: rows and columns are the same units, since one order alone changes the sign."""
    dims = look.of(look.tensors()[0])
    look.same(dims[-2], dims[-1], "rows and columns of a determinant")
    results = [dims[:-2] for _ in look.shapes]
    return results if len(results) > 1 else results[0]


@rule("aten.inverse", "aten.linalg_inv", "aten.pinverse", "aten.linalg_pinv")
def inverted(look: Look) -> Dims:
    """[..., a, b] -> [..., b, a]."""
    dims = look.of(look.tensors()[0])
    look.unread(*look.tensors()[1:])
    return [*dims[:-2], dims[-1], dims[-2]]


@rule("aten.linalg_solve")
def solved(look: Look) -> Dims:
    """[..., a, b], [..., a, k] or [..., a] -> [..., b, k] or [..., b]."""
    matrix, given = look.dims("A"), look.dims("B")
    if look["left"] is False:
        return look.all_pinned("solved from the right")[0]
    shape = [dim.size for dim in given]
    is_vector = len(given) == 1 or (len(given) == len(matrix) - 1 and shape == [dim.size for dim in matrix[:-1]])
    columns = [] if is_vector else given[-1:]
    ahead = given[: len(given) - len(columns)]
    look.same(ahead[-1], matrix[-2], "rows of a system")
    return [*look.broadcast([ahead[:-1], matrix[:-2]]), matrix[-1], *columns]


@rule("aten.linalg_multi_dot")
def chained(look: Look) -> Dims:
    """[a, b], [b, c], ... -> [a, ...]."""
    first, *others = (look.of(node) for node in look["tensors"])
    for each in others:
        first = product(look, first, each)
    return first


@rule("aten.tensordot")
def contracted(look: Look) -> Dims:
    """[..., k, ...], [..., k, ...] -> what is left of both: the dimensions that are named are summed over."""
    names = [name for name in look.arguments if look.has(name)]
    one, other = (look.dims(name) for name in (names[0], names[-1]))
    pairs = [(a % len(one), b % len(other)) for a, b in zip(look["dims_self"], look["dims_other"], strict=True)]
    summed = [look.same(one[a], other[b], "summed over") for a, b in pairs]
    kept = [dim for d, dim in enumerate(one) if d not in [a for a, _ in pairs]]
    kept += [dim for d, dim in enumerate(other) if d not in [b for _, b in pairs]]
    look.inside.append([*kept, *summed])
    return kept


@rule("aten.cosine_similarity", "aten.pairwise_distance", "aten.linalg_vecdot", "aten.dist")
def against(look: Look) -> Dims:
    """[..., n, ...], [..., n, ...] -> without n, or with a single in its place: an angle, a distance."""
    dims = look.broadcast(look.of(node) for node in look.tensors())
    if look.name == "aten.dist":
        return []
    dim = look.dim("dim", len(dims), 1 if look.name == "aten.cosine_similarity" else -1)
    look.mixed(dims, dim)
    kept = [look.terms.atom(1)] if len(look.shape) == len(dims) else []
    return [*dims[:dim], *kept, *dims[dim + 1 :]]


@rule("aten.linalg_cross")
def crossed(look: Look) -> Dims:
    """[..., 3, ...], [..., 3, ...] -> [..., 3, ...]: the three are told apart."""
    dims = look.broadcast(look.of(node) for node in look.tensors())
    dim = look.dim("dim", len(dims), -1)
    look.mixed(dims, dim)
    look.pin([dims[dim]], "directions in space")
    return dims
