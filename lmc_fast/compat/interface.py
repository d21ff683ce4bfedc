"""The interface that code written for git-re-basin shares, over `lmc_fast.weight_matching`.

Parameters are a mapping from names to torch tensors, numpy arrays, or arrays of any library that numpy can read (JAX).
A spec is a pair of plain dicts; a choice of permutations is a dict from names to integer indices, of the parameters'
kind: ``w.take(perm[p], axis)`` puts unit ``perm[p][i]`` at place i. Inside JAX's jit and vmap `apply_permutation` takes
traced parameters and traced permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .. import symmetry
from .._backend import check_device
from .._checks import check_type, fail_type
from .arrays import check_array, giver, read_index, taken
from .searching import Params, Perm, find, read_perm, seed_of
from .specs import (
    LacksError,
    PermutationSpec,
    axes_of,
    entries_a_unit,
    entry,
    halves_of,
    is_spec,
    permutation_spec_from_axes_to_perm,
    whole_of,
)

__all__ = [
    "PermutationSpec",
    "apply_permutation",
    "get_permuted_param",
    "permutation_spec_from_axes_to_perm",
    "weight_matching",
]


class Mover:
    """A spec and a choice of permutations, each read once, and what they do to a parameter.

    Args:
        keep: whether parameters that the spec does not name stay as they are; else they are an error.
        flattened: whether a Linear may read flattened maps, of which it has some inputs a unit, side by side.
    """

    def __init__(self, ps: Any, perm: Any, *, keep: bool = False, flattened: bool = False) -> None:
        self.axes_to_perm = halves_of(ps)[1]
        check_type("perm", perm, Mapping, "a dict from names to indices")
        self.perm: Mapping[str, Any] = perm
        self.keep, self.flattened = keep, flattened
        self.whole = whole_of(ps)
        self._read: dict[str, Any] = {}

    def __call__(self, k: str, w: Any, except_axis: int | None = None) -> Any:
        """Parameter `k` with its axes permuted, all but `except_axis`; `w` itself if nothing moves."""
        if self.whole is not None and k in self.whole.axes:
            return self._of_whole(k, w, except_axis)
        axes = axes_of(self.axes_to_perm, k)
        if axes is None:
            if self.keep:
                return w
            raise LacksError(f"ps must name every parameter, but lacks {k!r}")
        for axis, p in enumerate(axes):
            if axis != except_axis and p is not None:
                if not isinstance(w, Tensor):
                    check_array(f"params[{k!r}]", w)
                if axis >= len(w.shape):
                    raise ValueError(f"ps moves axis {axis} of {k!r}, which has {len(w.shape)} in params")
                index = self._index(p)
                inner = entries_a_unit(w.shape, axis, len(index)) if self.flattened else 1
                if len(index) * inner != w.shape[axis]:
                    raise ValueError(
                        f"perm[{p!r}] must have an index for each of the {w.shape[axis]} entries of axis {axis} of "
                        f"{k!r}, got {len(index)}"
                    )
                if inner > 1:
                    index = (index[:, None] * inner + np.arange(inner)).reshape(-1)
                w = taken(f"perm[{p!r}]", w, index, axis)
        return w

    def _index(self, p: str) -> Any:
        if p not in self._read:
            self._read[p] = read_index(f"perm[{p!r}]", entry("perm", self.perm, p))
        return self._read[p]

    @cached_property
    def _choice(self) -> symmetry.Permutations:
        assert self.whole is not None
        named = {p: entry("perm", self.perm, p) for p in self.whole.groups}
        return read_perm("perm", named, self.whole)

    def _of_whole(self, k: str, w: Any, except_axis: int | None) -> Any:
        check_type(f"params[{k!r}]", w, Tensor, "a tensor")
        assert self.whole is not None
        if all(axis.is_fixed for axis in self.whole.axes[k]):
            return w
        view = self.whole.view(k, w)
        for axis, index in enumerate(self._choice.gathers(k)):
            if index is not None and axis != except_axis:
                view = view.index_select(axis, index.to(view.device))
        return view.reshape(w.shape)


def get_permuted_param(
    ps: Any, perm: Perm, k: str, params: Params, except_axis: int | None = None, device: Any = None
) -> Any:
    """Parameter `k` with its axes permuted, all but `except_axis`; the one in `params` itself if nothing moves.

    The running statistics of a BatchNorm move with its weight, whether or not the spec names them; its count of
    batches has no units, whatever the spec says.

    Args:
        device: taken, and not needed: indices go where the parameter is.

    Raises:
        KeyError: a parameter that the spec does not name or that `params` lacks, a permutation that `perm` lacks.
        TypeError: a parameter that is neither a tensor nor an array, or another argument of the wrong kind.
        ValueError: indices that are no whole numbers, or not as many as the axis has entries; a parameter with fewer
            axes than move.
    """
    move = Mover(ps, perm)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return move(k, entry("params", params, k), except_axis)


def apply_permutation(ps: Any, perm: Perm, params: Params, device: Any = None) -> dict[str, Any]:
    """A new dict of all `params`, permuted: `get_permuted_param` for each, with what that raises."""
    move = Mover(ps, perm)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return {k: move(k, w) for k, w in params.items()}


@overload
def weight_matching(
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = ...,
    init_perm: Perm | None = ...,
    silent: bool = ...,
    *,
    search: str = ...,
    device: torch.device | str | None = ...,
) -> Perm: ...


@overload
def weight_matching(
    rng: Any,
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = ...,
    init_perm: Perm | None = ...,
    silent: bool = ...,
    *,
    search: str = ...,
    device: torch.device | str | None = ...,
) -> Perm: ...


def weight_matching(*args: Any, **kwargs: Any) -> Perm:
    """Find permutations of `params_b` that bring it closest to `params_a`, with `lmc_fast.weight_matching`.

    Both call forms are taken: ``weight_matching(rng, ps, params_a, params_b, ...)`` and
    ``weight_matching(ps, params_a, params_b, ...)``; a spec, of whatever class, is known by its two attributes.

    Args:
        rng: what is random in the search comes from it: an int, a JAX key, or a torch or numpy generator, which is
            read and not moved. Left out or None: nothing is random.
        ps: the spec. Parameters that it does not name are not looked at.
        params_a, params_b: read, never changed. Running statistics that a spec names do not count. ``fixed`` and
            ``permutee`` are other names for them.
        max_iter: end a search after so many sweeps.
        init_perm: where to start, not changed; whole numbers that are kept as floats will do. Without it there are
            searches from the identity, outwards from the fixed axes and, with `rng`, from a random start; the best
            one is returned.
        silent: print nothing; otherwise a line for every sweep.
        search: how to go on from each start, as of `lmc_fast.weight_matching`. "frank_wolfe" takes longer and ends a
            few thousandths higher as a rule, which is not seen in barriers.
        device: where to compute; None: where the parameters are.

    Returns:
        For every permutation int64 indices: torch tensors on the CPU for torch parameters, else arrays of the
        parameters' own library where that follows the array API (numpy and JAX do), in its own default integers.

    Raises:
        KeyError: a parameter of the spec that `params_a` or `params_b` lacks.
        TypeError, ValueError: arguments that do not fit each other, as `lmc_fast.weight_matching` says it; a spec
            whose halves contradict each other.
    """
    for own, other in (("params_a", "fixed"), ("params_b", "permutee")):
        if other in kwargs:
            if own in kwargs:
                raise TypeError(f"{own} and {other} are one argument, got both")
            kwargs[own] = kwargs.pop(other)
    if args and not is_spec(args[0]) and not any(map(is_spec, (*args[1:], kwargs.get("ps")))):
        # What stands where a spec belongs would be taken for a key, and another argument be missed.
        fail_type("ps", "a PermutationSpec", args[1] if len(args) > 3 else args[0])
    keyed = not is_spec(args[0]) if args else "rng" in kwargs
    return (_match_keyed if keyed else _match)(*args, **kwargs)


def _match_keyed(
    rng: Any,
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    silent: bool = False,
    *,
    search: str = "spectral",
    device: torch.device | str | None = None,
) -> Perm:
    return _match(ps, params_a, params_b, max_iter, init_perm, silent, search=search, device=device, seed=seed_of(rng))


def _match(
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    silent: bool = False,
    *,
    search: str = "spectral",
    device: torch.device | str | None = None,
    seed: int | None = None,
) -> Perm:
    where = check_device("device", device)
    found = find(
        ps,
        params_a,
        params_b,
        max_iter=max_iter,
        init_perm=init_perm,
        seed=seed,
        search=search,
        device=where,
        silent=silent,
    )
    if found.match is None:
        return {}
    give = giver(params_a[found.names[0]])
    return {p: give(index) for p, index in found.perm.items()}
