"""Searches as objects that are given modules: C2M3's matchers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ... import matching
from ..._checks import check_type
from ..._models import tensors_of
from ..._modes import neutral
from ..searching import Perm
from ..specs import halves_of
from .configured import Configured
from .functions import (
    LayerIterationOrder,
    bound,
    frank_wolfe_synchronized_matching,
    frank_wolfe_weight_matching,
    weight_matching,
)
from .models import get_model

__all__ = [
    "DummyMatcher",
    "FrankWolfeMatcher",
    "FrankWolfeSynchronizedMatcher",
    "GitRebasinMatcher",
    "Matcher",
    "SinkhornMatcher",
]


class Matcher(Configured):
    """Base of what finds permutations between modules.

    Args:
        name: of the method, as the scripts' configurations have it.
        permutation_spec: the spec, of whatever class.
    """

    def __call__(self, fixed: nn.Module, permutee: nn.Module) -> tuple[Perm, None]:
        """(for every permutation of `permutee` int64 indices on the CPU, None)."""
        raise NotImplementedError(f"{type(self).__name__} must say how it matches: define __call__")


class DummyMatcher(Matcher):
    """Leaves all units where they are."""

    def __call__(self, fixed: nn.Module, permutee: nn.Module) -> tuple[Perm, None]:
        state = tensors_of("fixed", fixed)
        places = halves_of(self.permutation_spec)[0]
        return {p: torch.arange(state[listed[0][0]].shape[listed[0][1]]) for p, listed in places.items()}, None


class GitRebasinMatcher(Matcher):
    """`weight_matching`."""

    def __init__(
        self,
        name: str,
        permutation_spec: Any,
        max_iter: int = 100,
        layer_iteration_order: LayerIterationOrder | str = LayerIterationOrder.RANDOM,
    ) -> None:
        super().__init__(name, permutation_spec)
        self.max_iter = max_iter
        self.layer_iteration_order = LayerIterationOrder(layer_iteration_order)

    def __call__(self, fixed: nn.Module, permutee: nn.Module) -> tuple[Perm, None]:
        a, b = tensors_of("fixed", fixed), tensors_of("permutee", permutee)
        return weight_matching(self.permutation_spec, a, b, max_iter=self.max_iter), None


class FrankWolfeMatcher(Matcher):
    """`frank_wolfe_weight_matching`."""

    def __init__(
        self,
        name: str,
        permutation_spec: Any,
        initialization_method: str = "identity",
        num_trials: int = 1,
        max_iter: int = 100,
        return_perm_history: bool = False,
        keep_soft_perms: bool = False,
    ) -> None:
        super().__init__(name, permutation_spec)
        self.options: dict[str, Any] = {
            "initialization_method": initialization_method,
            "num_trials": num_trials,
            "max_iter": max_iter,
            "keep_soft_perms": keep_soft_perms,
        }

    def __call__(self, fixed: nn.Module, permutee: nn.Module) -> tuple[Perm, None]:
        a, b = tensors_of("fixed", fixed), tensors_of("permutee", permutee)
        return frank_wolfe_weight_matching(self.permutation_spec, a, b, **self.options)


class FrankWolfeSynchronizedMatcher(Matcher):
    """`frank_wolfe_synchronized_matching`: C2M3."""

    def __init__(
        self,
        name: str,
        permutation_spec: Any,
        initialization_method: str = "identity",
        max_iter: int = 100,
        verbose: bool = False,
        keep_soft_perms: bool = False,
    ) -> None:
        super().__init__(name, permutation_spec)
        self.options: dict[str, Any] = {
            "initialization_method": initialization_method,
            "max_iter": max_iter,
            "verbose": verbose,
            "keep_soft_perms": keep_soft_perms,
        }

    def __call__(  # type: ignore[override]
        self,
        models: Mapping[str, nn.Module],
        symbols: Sequence[str],
        combinations: Sequence[tuple[str, str]] | None = None,
    ) -> tuple[dict[str, Perm], None]:
        """({symbol: {permutation: int64 indices}}, None), as of `frank_wolfe_synchronized_matching`."""
        check_type("models", models, Mapping, "modules by symbol")
        params = {symbol: tensors_of(f"models[{symbol!r}]", get_model(models[symbol])) for symbol in symbols}
        return frank_wolfe_synchronized_matching(params, self.permutation_spec, symbols, combinations, **self.options)


class SinkhornMatcher(Matcher):
    """Permutations learned by gradient descent over doubly stochastic matrices, by `lmc_fast.sinkhorn_matching`.

    Args:
        example_input_shape: not needed: the spec says what moves.
        lr: of the steps.
        criterion: "L2"; the original's "L1" is taken, and is L2 too.
        max_iter: steps at most.
    """

    def __init__(
        self,
        name: str,
        permutation_spec: Any,
        example_input_shape: Sequence[int] | None = None,
        lr: float = 0.1,
        criterion: str = "L2",
        max_iter: int = 100,
        verbose: bool = False,
    ) -> None:
        super().__init__(name, permutation_spec)
        if criterion not in ("L1", "L2"):
            raise ValueError(f"criterion must be 'L1' or 'L2', got {criterion!r}")
        self.lr, self.criterion, self.max_iter, self.verbose = lr, criterion, max_iter, bool(verbose)

    @neutral
    def __call__(self, fixed: nn.Module, permutee: nn.Module) -> tuple[Perm, None]:
        states = {"fixed": tensors_of("fixed", fixed), "permutee": tensors_of("permutee", permutee)}
        spec, (a, b) = bound(self.permutation_spec, states)
        match = matching.sinkhorn_matching(
            a, b, spec, init="identity", steps=self.max_iter, learning_rate=self.lr, progress=self.verbose
        )
        return {p: match.permutations[p] for p in halves_of(self.permutation_spec)[0]}, None
