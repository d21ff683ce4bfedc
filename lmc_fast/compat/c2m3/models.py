"""Models and state dicts as C2M3's scripts handle them: by symbols, and inside a module that trains them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._checks import check_type, fail_type
from ..._files import write_text
from ..._models import check_same_tensors, load_tensors, tensors_of

__all__ = [
    "average_models",
    "get_all_symbols_combinations",
    "get_model",
    "l2_norm_models",
    "restore_original_weights",
    "save_factored_permutations",
    "save_permutations",
]


def get_model(model: nn.Module) -> nn.Module:
    """The innermost module: that which is no longer inside another as its ``model``."""
    check_type("model", model, nn.Module, "a torch.nn.Module")
    while isinstance(getattr(model, "model", None), nn.Module):
        model = model.model  # type: ignore[assignment]
    return model


def restore_original_weights(
    models: Mapping[str, nn.Module], original_weights: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Copy state dicts into models, in place."""
    for symbol, model in models.items():
        load_tensors(get_model(model), original_weights[symbol])


def get_all_symbols_combinations(symbols: Iterable[str]) -> list[tuple[str, str]]:
    """All ordered pairs of different symbols, sorted."""
    return sorted(itertools.permutations(symbols, 2))


def average_models(
    model_params: Sequence[Mapping[str, Tensor]] | Mapping[Any, Mapping[str, Tensor]], reduction: str = "mean"
) -> dict[str, Tensor]:
    """The mean, or the median, of state dicts, in float32 or wider.

    Args:
        model_params: a list of state dicts, or a dict of them.
        reduction: "mean" or "median".
    """
    if reduction not in ("mean", "median"):
        raise ValueError(f"reduction must be 'mean' or 'median', got {reduction!r}")
    if not isinstance(model_params, (Mapping, Sequence)) or not model_params:
        fail_type("model_params", "a list or a dict of state dicts, one at least", model_params)
    states = list(model_params.values()) if isinstance(model_params, Mapping) else list(model_params)
    read = [tensors_of(f"model_params[{i}]", state) for i, state in enumerate(states)]
    for i, tensors in enumerate(read):
        check_same_tensors(f"model_params[{i}]", tensors, "model_params[0]", read[0])

    def wide(w: Tensor) -> Tensor:
        return w if w.dtype == torch.float64 else w.float()

    stacks = {name: torch.stack([wide(tensors[name]) for tensors in read]) for name in read[0]}
    return {name: w.mean(0) if reduction == "mean" else w.median(0)[0] for name, w in stacks.items()}


def l2_norm_models(state_dict1: Mapping[str, Tensor], state_dict2: Mapping[str, Tensor]) -> Tensor:
    """The distance between two state dicts, over all of the first one's entries."""
    one, two = tensors_of("state_dict1", state_dict1), tensors_of("state_dict2", state_dict2)
    two = check_same_tensors("state_dict2", two, "state_dict1", one)
    return torch.stack([(one[name] - two[name]).double().square().sum() for name in one]).sum().sqrt().float()


def save_permutations(permutations: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Write {fixed: {permutee: {permutation: indices}}} as JSON; what is None stays None. Nothing is changed."""
    _write(permutations, path)


def save_factored_permutations(permutations: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Write {symbol: {permutation: indices}} as JSON."""
    _write(permutations, path)


def _write(permutations: Mapping[str, Any], path: str | PathLike[str]) -> None:
    check_type("permutations", permutations, Mapping, "a dict by symbols")
    write_text(Path(fspath(path)), json.dumps(_plain(permutations)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inside) for key, inside in value.items()}
    return value if value is None else torch.as_tensor(value).tolist()
