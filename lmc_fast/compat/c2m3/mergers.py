"""Several models into one: C2M3's mergers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ... import matching, symmetry
from ..._checks import check_type
from ..._copies import copied
from ..._models import load_tensors, tensors_of
from ..._modes import neutral
from ...repairing import repair
from ..searching import Perm
from ..specs import halves_of, is_counter, whole_of
from .configured import Configured
from .functions import apply_permutation_to_statedict, bound, start_of, weight_matching
from .models import average_models, get_model

__all__ = [
    "DummyMerger",
    "FrankWolfeSynchronizedMerger",
    "FrankWolfeToReferenceMerger",
    "GitRebasinMerger",
    "GitRebasinPairwiseMerger",
    "Merger",
]


class Merger(Configured):
    """Base of what merges modules, given by symbol; none of them is changed, and the result is a module of its own.

    Args:
        name: of the method, as the scripts' configurations have it.
        permutation_spec: the spec, of whatever class.
    """

    @neutral
    def __call__(self, models: Mapping[str, nn.Module], train_loader: Iterable[Any] | None = None) -> tuple[Any, ...]:
        """(merged model, the same after REPAIR); without `train_loader` the second one is None."""
        merged, moved = self._merged(models)
        return merged, self._repaired(merged, moved, train_loader)

    def merge_models(self, models: Mapping[str, nn.Module]) -> nn.Module:
        """The merged model alone."""
        return self._merged(models)[0]

    def _perms(self, states: dict[str, dict[str, Tensor]]) -> dict[str, Perm]:
        """For each model what carries its units to their places in the merged one."""
        raise NotImplementedError(f"{type(self).__name__} must say how it matches: define __call__")

    def _merged(self, models: Mapping[str, nn.Module]) -> tuple[nn.Module, dict[str, nn.Module]]:
        check_type("models", models, Mapping, "modules by symbol")
        if len(models) < 2:
            raise ValueError(f"models must hold two at least, got {len(models)}")
        states = {symbol: tensors_of(f"models[{symbol!r}]", get_model(model)) for symbol, model in models.items()}
        perms = self._perms(states)
        moved = {}
        for symbol, model in models.items():
            moved[symbol] = copied(model)
            state = apply_permutation_to_statedict(self.permutation_spec, perms[symbol], states[symbol])
            load_tensors(get_model(moved[symbol]), state)
        first = next(iter(moved.values()))
        merged = copied(first)
        mean = average_models([tensors_of("models", get_model(model)) for model in moved.values()])
        # A mean of counts is no count.
        load_tensors(get_model(merged), {name: w for name, w in mean.items() if not is_counter(name)})
        return merged, moved

    def _repaired(
        self, merged: nn.Module, moved: Mapping[str, nn.Module], train_loader: Iterable[Any] | None
    ) -> nn.Module | None:
        if train_loader is None:
            return None
        inside = get_model(merged)
        whole = whole_of(self.permutation_spec)
        if whole is None:
            state = tensors_of("merged", inside)
            axes = halves_of(self.permutation_spec)[1]
            known = {name: (*axes[name], *[None] * w.ndim)[: w.ndim] for name, w in state.items() if name in axes}
            whole = symmetry.PermutationSpec.from_axes(known, model=state, rest="fixed")
        fixed = repair(inside, [get_model(model) for model in moved.values()], train_loader, spec=whole)
        twin = copied(merged)
        if get_model(twin) is twin:
            return fixed
        holder = twin
        while get_model(holder.model) is not holder.model:  # type: ignore[arg-type]
            holder = holder.model  # type: ignore[assignment]
        holder.model = fixed
        return twin


class DummyMerger(Merger):
    """The mean of models as they are."""

    def _perms(self, states: dict[str, dict[str, Tensor]]) -> dict[str, Perm]:
        spec, _ = bound(self.permutation_spec, states, "models[{!r}]")
        return {symbol: dict(symmetry.Permutations.identity(spec)) for symbol in states}


class _ManyMerger(Merger):
    """By a method of `lmc_fast.match_many`; the first model keeps its units where they are."""

    method = "merge_many"

    def __init__(
        self, name: str, permutation_spec: Any, max_iter: int = 100, initialization_method: str | None = None
    ) -> None:
        super().__init__(name, permutation_spec)
        self.max_iter = max_iter
        self.start = None if initialization_method is None else start_of(initialization_method, False)

    def _perms(self, states: dict[str, dict[str, Tensor]]) -> dict[str, Perm]:
        spec, tensors = bound(self.permutation_spec, states, "models[{!r}]")
        many = matching.match_many(tensors, spec, method=self.method, init=self.start, max_sweeps=self.max_iter)
        return {symbol: dict(choice) for symbol, choice in zip(states, many.permutations, strict=True)}


class GitRebasinMerger(_ManyMerger):
    """Each model in turn over the mean of the others, until nothing moves (Ainsworth et al., algorithm 3)."""


class FrankWolfeSynchronizedMerger(_ManyMerger):
    """All models into one universe at once: C2M3.

    Args:
        average_in_universe: merge the models in the universe; otherwise the first one alone is given back.
        keep_soft_perms: has to be False.
        device: not needed: it is computed where the models are.
    """

    method = "c2m3"

    def __init__(
        self,
        name: str,
        permutation_spec: Any,
        initialization_method: str = "identity",
        average_in_universe: bool = True,
        keep_soft_perms: bool = False,
        max_iter: int = 200,
        device: torch.device | str | None = None,
    ) -> None:
        start_of(initialization_method, keep_soft_perms)
        super().__init__(name, permutation_spec, max_iter, initialization_method)
        self.average_in_universe = average_in_universe

    @neutral
    def __call__(self, models: Mapping[str, nn.Module], train_loader: Iterable[Any] | None = None) -> tuple[Any, ...]:
        """(merged model, the same after REPAIR or None, {symbol: that model in the universe})."""
        merged, moved = self._merged(models)
        if not self.average_in_universe:
            merged = copied(next(iter(moved.values())))
        return merged, self._repaired(merged, moved, train_loader), moved


class FrankWolfeToReferenceMerger(_ManyMerger):
    """As `FrankWolfeSynchronizedMerger`, over the first model; gives the merged model alone."""

    method = "c2m3"

    def __init__(
        self, name: str, permutation_spec: Any, initialization_method: str = "identity", max_iter: int = 100
    ) -> None:
        super().__init__(name, permutation_spec, max_iter, initialization_method)

    def __call__(self, models: Mapping[str, nn.Module], train_loader: Iterable[Any] | None = None) -> Any:
        """The merged model."""
        return self.merge_models(models)


class GitRebasinPairwiseMerger(Merger):
    """Each model by itself over one of them.

    Args:
        ref_model_symbol: of the one that stays.
    """

    def __init__(self, name: str, permutation_spec: Any, max_iter: int = 100, ref_model_symbol: str = "a") -> None:
        super().__init__(name, permutation_spec)
        self.max_iter = max_iter
        self.ref_model_symbol = ref_model_symbol

    def __call__(
        self, models: Mapping[str, nn.Module], train_loader: Iterable[Any] | None = None, repair: bool = True
    ) -> Any:
        """(merged model, the same after REPAIR); with ``repair=False`` the merged model alone."""
        return super().__call__(models, train_loader) if repair else self.merge_models(models)

    def _perms(self, states: dict[str, dict[str, Tensor]]) -> dict[str, Perm]:
        if self.ref_model_symbol not in states:
            names = ", ".join(map(repr, states))
            raise ValueError(f"ref_model_symbol must be one of {names}, got {self.ref_model_symbol!r}")
        reference = states[self.ref_model_symbol]
        spec, _ = bound(self.permutation_spec, {"reference": reference})
        found: dict[str, Perm] = {self.ref_model_symbol: dict(symmetry.Permutations.identity(spec))}
        for symbol, state in states.items():
            if symbol != self.ref_model_symbol:
                found[symbol] = weight_matching(self.permutation_spec, reference, state, max_iter=self.max_iter)
        return found
