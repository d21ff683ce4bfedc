"""Other views of the same entries."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["view"]


@rule(
    *("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.ravel"),
    *("aten.reshape_as", "aten.view_as", "aten.view_copy"),
    carries=True,
)
def view(look: Look) -> Dims:
    """[a, b * c] -> [a * b, c] and the like: dimensions in order, cut and joined anew."""
    return regrouped(look, look.of(look.tensors()[0]), look.shape)


def regrouped(look: Look, dims: Dims, shape: list[int]) -> Dims:
    """The same entries in order with another shape."""
    terms = look.terms
    if [dim.size for dim in dims] == shape:
        return dims
    made = [terms.atom(size) for size in shape]
    if 0 not in shape:
        terms.unify(terms.product(dims), terms.product(made), look.why("cut where units end in no common way"))
    return made


@rule("aten.permute", "aten.numpy_T", "aten.permute_copy", carries=True)
def permute(look: Look) -> Dims:
    """[a, b, c] -> these in another order."""
    dims = look.of(look.tensors()[0])
    order = look["dims"] or list(reversed(range(len(dims))))
    return [dims[d] for d in order]


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.t", "aten.mT", "aten.adjoint", carries=True)
def transpose(look: Look) -> Dims:
    """[..., a, ..., b, ...] -> [..., b, ..., a, ...]."""
    dims = look.of(look.tensors()[0])
    if len(dims) < 2:
        return dims
    one = look.dim("dim0", len(dims), -2) if look.name != "aten.t" else 0
    other = look.dim("dim1", len(dims), -1) if look.name != "aten.t" else 1
    dims[one], dims[other] = dims[other], dims[one]
    return dims


@rule("aten.squeeze", "aten.unsqueeze", "aten.squeeze_copy", "aten.unsqueeze_copy", carries=True)
def singles(look: Look) -> Dims:
    """[a, 1, b] -> [a, b] and back."""
    dims = look.of(look.tensors()[0])
    kept = [dim for dim in dims if dim.size != 1]
    return [look.terms.atom(1) if size == 1 else kept.pop(0) for size in look.shape]


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy", carries=True)
def expand(look: Look) -> Dims:
    """[..., 1, ...] -> [..., n, ...]: the same at every one of n, which are whatever they are laid over."""
    dims = look.of(look.tensors()[0])
    shape = look.shape
    dims = [look.terms.atom(1)] * (len(shape) - len(dims)) + dims
    return [look.terms.atom(size) if dim.size == 1 else dim for dim, size in zip(dims, shape, strict=True)]


@rule("aten.repeat", "aten.tile", carries=True)
def repeat(look: Look) -> Dims:
    """[n] -> [k * n]: k times the same, one behind the other."""
    dims = look.of(look.tensors()[0])
    shape = look.shape
    dims = [look.terms.atom(1)] * (len(shape) - len(dims)) + dims
    return [
        dim if dim.size == size else look.terms.product([look.terms.atom(size // max(dim.size, 1)), dim])
        for dim, size in zip(dims, shape, strict=True)
    ]


@rule("aten.repeat_interleave", carries=True)
def repeat_interleave(look: Look) -> Dims:
    """[n] -> [n * k]: each k times."""
    dims = look.of(look.tensors()[0])
    if not isinstance(look["repeats"], int):
        return look.all_pinned("repeats differ from unit to unit")[0]
    if look["dim"] is None:
        dims = [look.terms.product(dims)]
    dim = look.dim("dim", len(dims))
    dims[dim] = look.terms.product([dims[dim], look.terms.atom(int(look["repeats"]))])
    return dims


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle")
def shuffle(look: Look) -> Dims:
    """[batch, c * r * r, h, w] -> [batch, c, h * r, w * r] and back: channels c stay free, places are told apart."""
    dims, shape, terms = look.of(look.tensors()[0]), look.shape, look.terms
    at = len(dims) - 3
    if look.name == "aten.channel_shuffle":
        groups = int(look["groups"])
        first, second = terms.atom(groups), terms.atom(dims[1].size // groups)
        terms.unify(dims[1], terms.product([first, second]), look.why("channels in groups"))
        dims[1] = terms.product([second, first])
        return dims
    few, many = sorted([dims[at].size, shape[at]])
    channels = terms.atom(few)
    both = terms.product([channels, look.told(many // few, "places within a unit's square")])
    if dims[at].size == many:
        terms.unify(dims[at], both, look.why("channels by places"))
    else:
        channels = dims[at]
        both = terms.product([channels, look.told(many // few, "places within a unit's square")])
    places = [look.told(size, "places of a map") for size in shape[at + 1 :]]
    return [*dims[:at], channels if shape[at] == few else both, *places]
