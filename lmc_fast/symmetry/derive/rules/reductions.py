"""Reductions: units that are treated alike are gone, or told apart by what is found of them."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["reduced"]


@rule(
    *("aten.sum", "aten.mean", "aten.prod", "aten.amax", "aten.amin", "aten.any", "aten.all", "aten.var", "aten.std"),
    *("aten.var_mean", "aten.std_mean", "aten.logsumexp", "aten.nansum", "aten.nanmean", "aten.count_nonzero"),
    "aten.aminmax",
)
def reduced(look: Look) -> Dims | list[Dims]:
    """[..., n, ...] -> without n, or with a single in its place."""
    dims = look.of(look.tensors()[0])
    given = look["dim"]
    gone = range(len(dims)) if given is None or given == [] else [given] if isinstance(given, int) else given
    gone = {d % max(1, len(dims)) for d in gone}
    kept = [dim for d, dim in enumerate(dims) if d not in gone]
    results = []
    for shape in look.shapes:
        if len(shape) == len(dims):
            results.append([look.terms.atom(1) if d in gone else dim for d, dim in enumerate(dims)])
        else:
            results.append(list(kept))
    return results if len(results) > 1 else results[0]


@rule(
    *("aten.argmax", "aten.argmin", "aten.max", "aten.min", "aten.topk", "aten.sort", "aten.argsort", "aten.median"),
    *("aten.kthvalue", "aten.mode", "aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin"),
    "aten.diff",
)
def ordered(look: Look) -> Dims | list[Dims]:
    """[..., n, ...] -> n is pinned: the result tells which of them, or goes by their order."""
    dims = look.of(look.tensors()[0])
    if look.name in ("aten.max", "aten.min") and len(look.tensors()) == 2:
        return look.broadcast(look.of(node) for node in look.tensors())
    if look.name in ("aten.max", "aten.min") and look["dim"] is None:
        return []
    if look["dim"] is None and look.name in ("aten.argmax", "aten.argmin"):
        look.pin(dims, "the result tells which of them")
        return [look.told(size, "the result tells which of them") for size in look.shape]
    dim = look.dim("dim", len(dims), -1)
    look.pin([dims[dim]], "the result tells which of them, or goes by their order")
    results = []
    for shape in look.shapes:
        if len(shape) == len(dims):
            made = look.told(shape[dim], "in the order of their values")
            results.append([made if d == dim and shape[d] != dims[d].size else each for d, each in enumerate(dims)])
        else:
            results.append([each for d, each in enumerate(dims) if d != dim])
    return results if len(results) > 1 else results[0]
