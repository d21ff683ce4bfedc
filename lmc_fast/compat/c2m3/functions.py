"""Searches, and permutations as indices and as matrices, in C2M3's names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import matching, symmetry
from ..._backend import check_device
from ..._checks import check_int, check_type, fail_type
from ..._copies import copied
from ..._models import load_tensors, tensors_of
from ..._modes import neutral
from ...assignment import linear_sum_assignment
from ..arrays import read_index, tensor_of
from ..interface import Mover
from ..searching import Params, Perm, find
from ..specs import counted, engine_spec, entry, halves_of, whole_of
from .models import get_all_symbols_combinations, get_model

__all__ = [
    "LayerIterationOrder",
    "apply_permutation_to_statedict",
    "create_artificially_permuted_models",
    "frank_wolfe_synchronized_matching",
    "frank_wolfe_weight_matching",
    "get_inverse_permutations",
    "get_permuted_param",
    "load_permutations",
    "perm_indices_to_perm_matrix",
    "perm_matrix_to_perm_indices",
    "solve_linear_assignment_problem",
    "unfactor_permutations",
    "weight_matching",
]

# Where the original starts, and where the engine does for it: soft starts are between all permutations.
STARTS = {"identity": "identity", "random": "random", "sinkhorn": "anchored", "LAP": "anchored"}


class LayerIterationOrder(str, Enum):
    """In which order permutations are visited; the engine has its own, and takes any of these."""

    RANDOM = "random"
    FORWARD = "forward"
    BACKWARD = "backward"
    ALTERNATE = "alternate"


def weight_matching(
    ps: Any,
    fixed: Params,
    permutee: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    alternate_diffusion_params: None = None,
    layer_iteration_order: LayerIterationOrder | str = LayerIterationOrder.RANDOM,
    verbose: bool = False,
) -> Perm:
    """Find permutations of `permutee` that bring it closest to `fixed`, with `lmc_fast.weight_matching`.

    Args:
        ps: the spec, of whatever class.
        fixed, permutee: state dicts, read and never changed.
        max_iter: end a search after so many sweeps.
        init_perm: where to start, not changed; None: from the identity and outwards from the fixed axes, and the
            better end is returned.
        alternate_diffusion_params: has to be None.
        layer_iteration_order: not needed: what is visited next is what may have moved.
        verbose: a line for every sweep.

    Returns:
        For every permutation int64 indices, on the CPU.
    """
    if alternate_diffusion_params is not None:
        raise ValueError("alternate_diffusion_params must be None: diffusion is not part of this search")
    LayerIterationOrder(layer_iteration_order)
    check_type("verbose", verbose, bool, "a bool")
    return find(
        ps,
        fixed,
        permutee,
        arguments=("fixed", "permutee"),
        max_iter=max_iter,
        init_perm=init_perm,
        silent=not verbose,
    ).perm


@neutral
def frank_wolfe_weight_matching(
    ps: Any,
    fixed: Params,
    permutee: Params,
    initialization_method: str = "identity",
    max_iter: int = 200,
    return_perm_history: bool = False,
    num_trials: int = 3,
    device: torch.device | str | None = None,
    keep_soft_perms: bool = False,
) -> tuple[Perm, None]:
    """As `weight_matching`, moving all permutations at once over doubly stochastic matrices, and then by itself.

    Args:
        initialization_method: "identity", "random", "sinkhorn" or "LAP"; the last two start outwards from the fixed
            axes.
        max_iter: steps at most.
        return_perm_history: not needed: there is none.
        num_trials: how many searches; those after the first start at random, from seeds of the call's own.
        device: where to compute; None: where `fixed` is.
        keep_soft_perms: has to be False.

    Returns:
        (for every permutation int64 indices on the CPU, None).
    """
    start = start_of(initialization_method, keep_soft_perms)
    check_int("num_trials", num_trials, 1)
    spec, (a, b) = bound(ps, {"fixed": fixed, "permutee": permutee})
    match = matching.weight_matching(
        a,
        b,
        spec,
        init=start,
        search="frank_wolfe",
        restarts=num_trials,
        max_sweeps=max_iter,
        device=check_device("device", device),
    )
    return {p: match.permutations[p] for p in halves_of(ps)[0]}, None


@neutral
def frank_wolfe_synchronized_matching(
    params: Mapping[str, Params],
    perm_spec: Any,
    symbols: Sequence[str],
    combinations: Sequence[tuple[str, str]] | None = None,
    max_iter: int = 200,
    initialization_method: str = "identity",
    keep_soft_perms: bool = False,
    device: torch.device | str | None = None,
    verbose: bool = False,
) -> tuple[dict[str, Perm], None]:
    """Permutations of several models to one universe, so that maps around any cycle of models are the identity.

    Args:
        params: state dicts by symbol, read and never changed.
        perm_spec: the spec, of whatever class.
        symbols: whose models take part, two at least; the universe is in the order of the first one's units.
        combinations: not needed: all pairs count.
        max_iter: steps at most.
        initialization_method: as of `frank_wolfe_weight_matching`.
        keep_soft_perms: has to be False.
        device: where to compute; None: where the first model is.
        verbose: a bar.

    Returns:
        ({symbol: {permutation: int64 indices, from the universe to that model}}, None): the inverse of what carries a
        model there, as the original has it, so that `unfactor_permutations` gives the maps between two.
    """
    start = start_of(initialization_method, keep_soft_perms)
    check_type("params", params, Mapping, "state dicts by symbol")
    spec, states = bound(perm_spec, {symbol: entry("params", params, symbol) for symbol in symbols}, "params[{!r}]")
    many = matching.match_many(
        states,
        spec,
        method="c2m3",
        init=start,
        max_sweeps=max_iter,
        device=check_device("device", device),
        progress=bool(verbose),
    )
    found = {}
    for symbol, choice in zip(symbols, many.permutations, strict=True):
        inverse = choice.inverse()
        found[symbol] = {p: inverse[p] for p in halves_of(perm_spec)[0]}
    return found, None


def apply_permutation_to_statedict(ps: Any, perm_matrices: Perm, all_params: Params) -> dict[str, Any]:
    """A new dict of all parameters, permuted by indices or by permutation matrices.

    Raises:
        KeyError: a parameter that the spec does not name, a permutation that `perm_matrices` lacks.
        TypeError, ValueError: as `git_re_basin.apply_permutation`.
    """
    check_type("perm_matrices", perm_matrices, Mapping, "a dict from names to indices or matrices")
    check_type("all_params", all_params, Mapping, "a dict from names to tensors")
    inside = whole_of(ps)
    nested = set() if inside is None else {name for name, group in inside.groups.items() if group.owner is not None}
    move = Mover(ps, {p: perm if p in nested else _as_indices(p, perm) for p, perm in perm_matrices.items()})
    return {k: move(k, w) for k, w in all_params.items()}


def get_permuted_param(
    param: Tensor, perms_to_apply: Sequence[str | None], perm_matrices: Perm, except_axis: int | None = None
) -> Tensor:
    """A parameter with its axes permuted, all but `except_axis`, by indices or by permutation matrices."""
    check_type("param", param, Tensor, "a tensor")
    for axis, p in enumerate(perms_to_apply):
        if p is not None and axis != except_axis:
            index = torch.from_numpy(read_index(p, _as_indices(p, entry("perm_matrices", perm_matrices, p))))
            param = param.index_select(axis, index.to(param.device))
    return param


def _as_indices(p: str, perm: Any) -> Any:
    return perm_matrix_to_perm_indices(perm) if getattr(perm, "ndim", 1) == 2 else perm


def perm_indices_to_perm_matrix(perm_indices: Any) -> Tensor:
    """The float32 matrix [n, n] whose row i has its 1 at ``perm_indices[i]``."""
    index = torch.as_tensor(perm_indices)
    if index.ndim != 1:
        fail_type("perm_indices", "indices in one dimension", perm_indices)
    return torch.eye(len(index), device=index.device)[index.long()]


def perm_matrix_to_perm_indices(perm_matrix: Tensor) -> Tensor:
    """Where each row of a permutation matrix has its 1: int64 [n].

    Raises:
        ValueError: it is no permutation matrix; a soft one has no indices.
    """
    check_type("perm_matrix", perm_matrix, Tensor, "a tensor")
    square = perm_matrix.ndim == 2 and perm_matrix.shape[0] == perm_matrix.shape[1]
    index = perm_matrix.argmax(1) if square and perm_matrix.numel() else torch.empty(0, dtype=torch.int64)
    if not square or not torch.equal(perm_indices_to_perm_matrix(index).to(perm_matrix), perm_matrix):
        raise ValueError("perm_matrix must have a single 1 in each row, and 0 elsewhere, and does not")
    return index


def get_inverse_permutations(permutations: Perm) -> Perm:
    """What undoes each of some permutations: indices of those that are indices, matrices of those that are matrices."""
    return {p: perm.T if perm.ndim == 2 else perm.argsort() for p, perm in permutations.items()}


def solve_linear_assignment_problem(sim_matrix: Any, return_matrix: bool = False) -> Tensor:
    """The permutation of greatest sum over a square matrix: int64 indices, or its matrix."""
    matrix = tensor_of("sim_matrix", sim_matrix).cpu()
    index = torch.as_tensor(linear_sum_assignment(matrix.numpy(), maximize=True)[1])
    return perm_indices_to_perm_matrix(index) if return_matrix else index


def unfactor_permutations(permutations: Mapping[str, Perm], matrix_format: bool = False) -> dict[str, dict[str, Perm]]:
    """{fixed: {permutee: {permutation: indices}}} from the permutations of each model and a universe."""
    if matrix_format:
        raise ValueError("matrix_format must be False: permutations are indices here")
    check_type("permutations", permutations, Mapping, "permutations by symbol")
    found: dict[str, dict[str, Perm]] = {symbol: {} for symbol in permutations}
    for fixed, permutee in get_all_symbols_combinations(permutations):
        pairs = ((p, torch.as_tensor(permutations[fixed][p]), permutations[permutee][p]) for p in permutations[fixed])
        # From the permutee to the universe, and from there to the fixed model.
        found[fixed][permutee] = {p: torch.as_tensor(other).argsort()[own] for p, own, other in pairs}
    return found


def load_permutations(path: str | PathLike[str], factored: bool = False, matrix_format: bool = False) -> dict[str, Any]:
    """Read what `save_permutations` wrote, or, with `factored`, what `save_factored_permutations` did, unfactored."""
    found = json.loads(Path(fspath(path)).read_text(encoding="utf-8"))
    if factored:
        return unfactor_permutations(found, matrix_format)
    return {
        source: {
            target: {p: None if index is None else torch.tensor(index) for p, index in perms.items()}
            for target, perms in (targets or {}).items()
            if perms is not None
        }
        for source, targets in found.items()
    }


@neutral
def create_artificially_permuted_models(
    seed_model: nn.Module, permutation_spec: Any, num_models: int, seed: int = 0
) -> list[nn.Module]:
    """Copies of a model with random permutations, from `seed` on."""
    check_int("num_models", num_models, 1)
    state = tensors_of("seed_model", get_model(seed_model))
    made = []
    spec, _ = bound(permutation_spec, {"seed_model": state})
    for i in range(num_models):
        perm = dict(symmetry.Permutations.random(spec, seed + i))
        twin = copied(seed_model)
        load_tensors(get_model(twin), apply_permutation_to_statedict(permutation_spec, perm, state))
        made.append(twin)
    return made


def start_of(initialization_method: str, keep_soft_perms: bool) -> str:
    """Where the engine starts, for where the original does."""
    if initialization_method not in STARTS:
        names = ", ".join(map(repr, STARTS))
        raise ValueError(f"initialization_method must be one of {names}, got {initialization_method!r}")
    if keep_soft_perms:
        raise ValueError("keep_soft_perms must be False: what is returned are permutations")
    return STARTS[initialization_method]


def bound(
    ps: Any, params: Mapping[str, Any], pattern: str = "{}"
) -> tuple[symmetry.PermutationSpec, list[dict[str, Tensor]]]:
    """The engine's spec, and of each model what it moves.

    Args:
        params: state dicts by what their arguments are called.
        pattern: of the arguments' names.
    """
    whole, states = whole_of(ps), []
    names = counted(ps) if whole is None else list(whole.axes)
    for key, given in params.items():
        argument = pattern.replace("{!r}", repr(key)).replace("{}", key)
        check_type(argument, given, Mapping, "a dict from names to tensors")
        states.append({name: tensor_of(f"{argument}[{name!r}]", entry(argument, given, name)) for name in names})
    spec = engine_spec(halves_of(ps)[1], states[0]) if whole is None else whole.bind(states[0])
    return spec, states
