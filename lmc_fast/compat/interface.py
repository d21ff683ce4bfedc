"""The interface that code written for git-re-basin shares, over `lmc_fast.weight_matching`.

Parameters are a mapping from names to torch tensors, numpy arrays, or arrays of any library that numpy can read (JAX).
A spec is a pair of plain dicts; a choice of permutations is a dict from names to integer indices, of the parameters'
kind: ``w.take(perm[p], axis)`` puts unit ``perm[p][i]`` at place i.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import matching, symmetry
from .._checks import check_type, fail_type
from .._models import STATISTICS

__all__ = [
    "PermutationSpec",
    "apply_permutation",
    "get_permuted_param",
    "permutation_spec_from_axes_to_perm",
    "weight_matching",
]

Places = dict[str, list[tuple[str, int]]]
Axes = dict[str, tuple[str | None, ...]]
Params = Mapping[str, Any]
Perm = dict[str, Any]


class PermutationSpec(NamedTuple):
    """What may be permuted.

    Attributes:
        perm_to_axes: for every permutation the (parameter, axis) pairs that it moves; what is listed here counts.
        axes_to_perm: for every parameter and axis the permutation that moves it, or None.
    """

    perm_to_axes: Places
    axes_to_perm: Axes


class _LacksError(KeyError, ValueError):
    """What scripts catch as a KeyError, with a message that reads as one."""

    def __str__(self) -> str:
        return str(self.args[0])


def permutation_spec_from_axes_to_perm(axes_to_perm: Axes) -> PermutationSpec:
    """A spec from its second half: every axis that moves counts."""
    check_type("axes_to_perm", axes_to_perm, Mapping, "a dict from parameter names to tuples")
    places: Places = {}
    for name, axes in axes_to_perm.items():
        for axis, perm in enumerate(axes):
            if perm is not None:
                places.setdefault(perm, []).append((name, axis))
    return PermutationSpec(places, axes_to_perm)


def get_permuted_param(ps: PermutationSpec, perm: Perm, k: str, params: Params, except_axis: int | None = None) -> Any:
    """Parameter `k` with its axes permuted, all but `except_axis`; the one in `params` itself if nothing moves.

    The running statistics of a BatchNorm move with its weight, whether or not the spec names them.

    Raises:
        KeyError: a parameter that the spec does not name or that `params` lacks, a permutation that `perm` lacks.
        TypeError: a parameter that is neither a tensor nor an array, or another argument of the wrong kind.
        ValueError: indices that are no whole numbers, or not as many as the axis has entries; a parameter with fewer
            axes than move.
    """
    if not _is_spec(ps):
        fail_type("ps", "a PermutationSpec", ps)
    check_type("perm", perm, Mapping, "a dict from names to indices")
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    w = _entry("params", params, k)
    for axis, p in enumerate(_axes_of(ps, k)):
        if axis != except_axis and p is not None:
            if not isinstance(w, Tensor):
                _array(f"params[{k!r}]", w)
            if axis >= len(w.shape):
                raise ValueError(f"ps moves axis {axis} of {k!r}, which has {len(w.shape)} in params")
            index = _read_index(f"perm[{p!r}]", _entry("perm", perm, p))
            if len(index) != w.shape[axis]:
                raise ValueError(
                    f"perm[{p!r}] must have an index for each of the {w.shape[axis]} entries of axis {axis} of {k!r}, "
                    f"got {len(index)}"
                )
            if isinstance(w, Tensor):
                w = w.index_select(axis, torch.from_numpy(index).to(w.device))
            else:
                w = w.take(index, axis=axis)
    return w


def apply_permutation(ps: PermutationSpec, perm: Perm, params: Params) -> dict[str, Any]:
    """A new dict of all `params`, permuted: `get_permuted_param` for each, with what that raises."""
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return {k: get_permuted_param(ps, perm, k, params) for k in params}


@overload
def weight_matching(
    ps: PermutationSpec,
    params_a: Params,
    params_b: Params,
    max_iter: int = ...,
    init_perm: Perm | None = ...,
    silent: bool = ...,
) -> Perm: ...


@overload
def weight_matching(
    rng: Any,
    ps: PermutationSpec,
    params_a: Params,
    params_b: Params,
    max_iter: int = ...,
    init_perm: Perm | None = ...,
    silent: bool = ...,
) -> Perm: ...


def weight_matching(*args: Any, **kwargs: Any) -> Perm:
    """Find permutations of `params_b` that bring it closest to `params_a`, with `lmc_fast.weight_matching`.

    Both call forms are taken: ``weight_matching(rng, ps, params_a, params_b, ...)`` and
    ``weight_matching(ps, params_a, params_b, ...)``; a spec, of whatever class, is known by its two attributes.

    Args:
        rng: what is random in the search comes from it: an int, a JAX key, or a torch or numpy generator, which is
            read and not moved. Left out or None: nothing is random.
        ps: the spec. Parameters that it does not name are not looked at.
        params_a, params_b: read, never changed. Running statistics that a spec names do not count.
        max_iter: end a search after so many sweeps.
        init_perm: where to start, not changed; whole numbers that are kept as floats will do. Without it there are
            searches from the identity, outwards from the fixed axes and, with `rng`, from a random start; the best
            one is returned.
        silent: print nothing; otherwise a line for every sweep.

    Returns:
        For every permutation int64 indices: torch tensors on the CPU for torch parameters, else arrays of the
        parameters' own library where that follows the array API (numpy and JAX do), in its own default integers.

    Raises:
        KeyError: a parameter of the spec that `params_a` or `params_b` lacks.
        TypeError, ValueError: arguments that do not fit each other, as `lmc_fast.weight_matching` says it; a spec
            whose halves contradict each other.
    """
    keyed = not _is_spec(args[0]) if args else "rng" in kwargs
    return (_match_keyed if keyed else _match)(*args, **kwargs)


def _match_keyed(
    rng: Any,
    ps: PermutationSpec,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    silent: bool = False,
) -> Perm:
    return _match(ps, params_a, params_b, max_iter, init_perm, silent, seed=_seed_of(rng))


def _match(
    ps: PermutationSpec,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    silent: bool = False,
    *,
    seed: int | None = None,
) -> Perm:
    if not _is_spec(ps):
        fail_type("ps", "a PermutationSpec", ps)
    check_type("silent", silent, bool, "a bool")
    if not ps.perm_to_axes:
        return {}
    for argument, params in (("params_a", params_a), ("params_b", params_b)):
        check_type(argument, params, Mapping, "a dict from names to tensors or arrays")
    names = _counted(ps)
    tensors_a = {name: _tensor(f"params_a[{name!r}]", _entry("params_a", params_a, name)) for name in names}
    tensors_b = {name: _tensor(f"params_b[{name!r}]", _entry("params_b", params_b, name)) for name in names}
    axes = {name: _full_axes(name, ps.axes_to_perm[name], tensor.ndim) for name, tensor in tensors_a.items()}
    spec = symmetry.PermutationSpec.from_axes(axes, model=tensors_a)
    # No start is the best one for all models; from the identity is where these scripts search today.
    starts: list[str | symmetry.Permutations] = ["identity", "anchored", *([] if seed is None else ["random"])]
    if init_perm is not None:
        check_type("init_perm", init_perm, Mapping, "a dict from names to indices")
        indices = {p: _read_index(f"init_perm[{p!r}]", index) for p, index in init_perm.items()}
        starts = [symmetry.Permutations(spec, indices)]
    best = max(
        (
            matching.weight_matching(
                tensors_a,
                tensors_b,
                spec,
                init=start,
                max_sweeps=max_iter,
                seed=seed or 0,
                progress=False if silent else _teller(start),
            )
            for start in starts
        ),
        key=lambda match: match.objective,
    )
    give = _giver(params_a[names[0]])
    return {p: give(best.permutations[p]) for p in ps.perm_to_axes}


def _teller(start: str | symmetry.Permutations) -> Callable[[str, int, int], None]:
    """Prints a line for every sweep, from 0."""
    name = start if isinstance(start, str) else "init_perm"
    lines = itertools.count()
    return lambda what, done, total: print(f"{next(lines)}/{name}: {what}")


def _is_spec(value: object) -> bool:
    # Scripts often bring a class of their own.
    return hasattr(value, "perm_to_axes") and hasattr(value, "axes_to_perm")


def _seed_of(rng: Any) -> int | None:
    """A seed from whatever stands first in the call; the same for the same key."""
    if rng is None:
        return None
    if isinstance(rng, (int, np.integer)):
        return abs(int(rng))
    if isinstance(rng, torch.Generator):
        return abs(rng.initial_seed())
    if isinstance(rng, np.random.Generator):
        return zlib.crc32(repr(rng.bit_generator.state).encode())
    if not hasattr(rng, "dtype"):
        fail_type("rng", "an int, a JAX key, or a torch or numpy generator", rng)
    # JAX's typed keys cannot be read as arrays; whoever holds one has imported JAX.
    jax = sys.modules.get("jax")
    data = np.asarray(jax.random.key_data(rng) if jax is not None and "key<" in str(rng.dtype) else rng)
    return zlib.crc32(data.tobytes())


def _axes_of(ps: PermutationSpec, k: str) -> tuple[str | None, ...]:
    """The permutation of each axis of a parameter, or of a BatchNorm buffer beside one."""
    if k in ps.axes_to_perm:
        return ps.axes_to_perm[k]
    layer, _, kind = k.rpartition(".")
    weight = f"{layer}.weight" if layer else "weight"
    if weight in ps.axes_to_perm:
        if kind in STATISTICS:
            return ps.axes_to_perm[weight]
        if kind == "num_batches_tracked":
            return ()
    raise _LacksError(f"ps must name every parameter, but lacks {k!r}")


def _entry(argument: str, entries: Mapping[str, Any], name: str) -> Any:
    if name not in entries:
        raise _LacksError(f"{argument} must have an entry for every name in ps, but lacks {name!r}")
    return entries[name]


def _counted(ps: PermutationSpec) -> list[str]:
    """Parameters that count, after a look at whether the halves of the spec agree on them."""
    names = list(dict.fromkeys(name for places in ps.perm_to_axes.values() for name, _ in places))
    forward = {(name, axis): p for p, places in ps.perm_to_axes.items() for name, axis in places}
    halves = {name: _entry("ps.axes_to_perm", ps.axes_to_perm, name) for name in names}
    backward = {(name, axis): p for name, axes in halves.items() for axis, p in enumerate(axes) if p is not None}
    wrong = next((place for place in [*forward, *backward] if forward.get(place) != backward.get(place)), None)
    if wrong is not None:
        raise ValueError(
            f"ps must say the same in both halves, but axis {wrong[1]} of {wrong[0]!r} belongs to "
            f"{forward.get(wrong)!r} in perm_to_axes and to {backward.get(wrong)!r} in axes_to_perm"
        )
    return names


def _full_axes(name: str, axes: tuple[str | None, ...], ndim: int) -> tuple[str | None, ...]:
    """One entry for each dimension: specs in use leave out fixed ones at the end, or name some that are not there."""
    full = (*axes, *[None] * ndim)
    if any(p is not None for p in full[ndim:]):
        raise ValueError(f"ps names {len(axes)} axes of {name!r}, which has {ndim}")
    return full[:ndim]


def _tensor(argument: str, w: Any) -> Tensor:
    """A torch tensor of a parameter's numbers: itself, or over the same memory where numpy allows it."""
    if isinstance(w, Tensor):
        return w.detach()
    array = _array(argument, w)
    if array.dtype.kind not in "biufc":
        # bfloat16 and its like, which numpy knows from ml_dtypes only.
        array = array.astype(np.float32)
    elif array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # Arrays read from files may have another machine's byte order.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _array(argument: str, value: Any) -> NDArray[Any]:
    if not hasattr(value, "__array__") or not hasattr(value, "shape"):
        fail_type(argument, "a tensor or an array", value)
    return np.asarray(value)


def _read_index(argument: str, index: Any) -> NDArray[np.int64]:
    """Indices as int64; some ports keep them as floats."""
    if isinstance(index, Tensor):
        index = index.detach().cpu().numpy()
    array = np.asarray(index)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        fail_type(argument, "indices in one dimension", index)
    whole = array.astype(np.int64)
    if array.dtype.kind == "f" and not np.array_equal(whole, array):
        raise ValueError(f"{argument} must hold whole numbers, and does not")
    return whole


def _giver(like: Any) -> Callable[[Tensor], Any]:
    """What turns int64 tensors into indices of the library that `like` is from."""
    if isinstance(like, Tensor):
        return lambda index: index
    namespace = getattr(like, "__array_namespace__", None)
    if isinstance(like, np.ndarray) or namespace is None:
        return lambda index: index.numpy()
    return lambda index: namespace().asarray(index.numpy())
