"""The search behind every `weight_matching` of this package: from plain dicts to the engine, and back."""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import matching, symmetry
from .._checks import check_type, fail_type
from .arrays import read_index, tensor_of
from .specs import counted, engine_spec, entry, halves_of, whole_of

__all__ = ["Found", "Params", "Perm", "distances", "find", "read_perm", "seed_of"]

Params = Mapping[str, Any]
Perm = dict[str, Any]


class Found(NamedTuple):
    """What a search ended with.

    Attributes:
        perm: for every permutation of the spec int64 indices on the CPU, [units].
        match: the engine's result; None where the spec has no permutation.
        names: the parameters that the spec moves.
    """

    perm: dict[str, Tensor]
    match: matching.Matching | None
    names: list[str]


def find(
    ps: Any,
    params_a: Params,
    params_b: Params,
    *,
    arguments: tuple[str, str] = ("params_a", "params_b"),
    max_iter: int = 100,
    init_perm: Mapping[str, Any] | None = None,
    seed: int | None = None,
    search: str = "spectral",
    device: torch.device | str | None = None,
    leave_out: Callable[[str], bool] | None = None,
    flattened: bool = False,
    silent: bool = True,
) -> Found:
    """The permutations of `params_b` that bring it closest to `params_a`.

    Args:
        arguments: what the caller calls the two.
        seed: None: nothing is random.
        leave_out: tells the parameters that do not count.
        flattened: as of `specs.engine_spec`.
        silent: False: a line for every sweep.
        The rest is as of `interface.weight_matching`.
    """
    halves = halves_of(ps)
    check_type("silent", silent, bool, "a bool")
    if init_perm is not None:
        check_type("init_perm", init_perm, Mapping, "a dict from names to indices")
    for argument, params in zip(arguments, (params_a, params_b), strict=True):
        check_type(argument, params, Mapping, "a dict from names to tensors or arrays")
    if not halves[0]:
        return Found({}, None, [])
    whole = whole_of(ps)
    names = counted(ps) if whole is None else list(whole.axes)
    tensors_a, tensors_b = (
        {name: tensor_of(f"{argument}[{name!r}]", entry(argument, params, name)) for name in names}
        for argument, params in zip(arguments, (params_a, params_b), strict=True)
    )
    spec = engine_spec(halves[1], tensors_a, flattened=flattened) if whole is None else whole.bind(tensors_a)
    weights = {name: 0.0 for name in names if leave_out is not None and leave_out(name)}
    # No start is the best one for all models; from the identity is where these scripts search.
    starts: list[str | symmetry.Permutations] = ["identity", "anchored", *([] if seed is None else ["random"])]
    if init_perm is not None:
        starts = [read_perm("init_perm", init_perm, spec)]
    best = matching.weight_matching(
        tensors_a,
        tensors_b,
        spec,
        init=starts,
        search=search,
        max_sweeps=max_iter,
        seed=seed or 0,
        device=device,
        weights=weights or None,
        progress=[False if silent else _teller(start) for start in starts],
    )
    return Found({p: best.permutations[p] for p in halves[0]}, best, names)


def read_perm(argument: str, perm: Mapping[str, Any], spec: symmetry.PermutationSpec) -> symmetry.Permutations:
    """A script's indices as the engine has them; those of a permutation inside others have more dimensions than one."""
    inside = {name for name, group in spec.groups.items() if group.owner is not None}
    return symmetry.Permutations(
        spec, {p: index if p in inside else read_index(f"{argument}[{p!r}]", index) for p, index in perm.items()}
    )


def distances(match: matching.Matching) -> list[float]:
    """||theta_a - pi(theta_b)|| before the first sweep and after each of them."""
    # The squares of both models' norms do not change: l2^2 = squares - 2 objective.
    squares = match.l2_after**2 + 2 * match.objective
    after = [max(0.0, squares - 2 * sweep.objective) ** 0.5 for sweep in match.history[:-1]]
    return [match.l2_before, *after, match.l2_after]


def _teller(start: str | symmetry.Permutations) -> Callable[[str, int, int], None]:
    """Prints a line for every sweep, from 0."""
    name = start if isinstance(start, str) else "init_perm"
    lines = itertools.count()
    return lambda what, done, total: print(f"{next(lines)}/{name}: {what}")


def seed_of(rng: Any) -> int | None:
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
