"""Two models laid over each other, and several merged, in place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import matching, symmetry
from ..._backend import check_device
from ..._checks import check_type, fail_type
from ..._copies import copied
from ..._files import write_aside
from ..._models import load_tensors, tensors_of
from ..._modes import neutral
from ...merging import merge
from .utils import parse_logging_level

__all__ = ["MergeMany", "PermutationCoordinateDescent"]


class PermutationCoordinateDescent:
    """Permutations that lay `model_b` over `model_a`, by weight matching.

    Args:
        model_a: stays as it is.
        model_b: is permuted, in place, by `rebasin` or `apply_permutations`.
        input_data_b: example inputs of model b, on its device, as of `lmc_fast.derive_spec`.
        input_data_a: not needed: the models are of one architecture.
        device_a, device_b: taken; gains are computed on `device_a`, or where model a is.
        logging_level: of `logging`; up to INFO there is a bar.

    Attributes:
        match: the `lmc_fast.Matching`; None before it is calculated.
        spec: what may be permuted; ``spec.explain()`` tells why the rest may not.
    """

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        input_data_b: Any,
        input_data_a: Any | None = None,
        device_a: torch.device | str | None = None,
        device_b: torch.device | str | None = None,
        logging_level: int | str = logging.ERROR,
    ) -> None:
        check_type("model_a", model_a, nn.Module, "a torch.nn.Module")
        check_type("model_b", model_b, nn.Module, "a torch.nn.Module")
        self.logging_level = parse_logging_level(logging_level)
        self.device_a, self.device_b = check_device("device_a", device_a), check_device("device_b", device_b)
        self.model_a, self.model_b = model_a, model_b
        self.spec = symmetry.derive_spec(model_b, input_data_b)
        self.match: matching.Matching | None = None

    def rebasin(self, max_iterations: int = 100) -> None:
        """Find permutations, in so many sweeps at most, and permute model b."""
        self.calculate_permutations(max_iterations)
        self.apply_permutations()

    def calculate_permutations(self, max_iterations: int = 100) -> None:
        """Find permutations, in so many sweeps at most."""
        self.match = matching.weight_matching(
            self.model_a,
            self.model_b,
            self.spec,
            max_sweeps=max_iterations,
            device=self.device_a,
            progress=self.logging_level <= logging.INFO,
        )

    @neutral
    def apply_permutations(self) -> None:
        """Permute model b, in place, with what was found.

        Raises:
            ValueError: nothing was calculated before.
        """
        if self.match is None:
            raise ValueError("calculate_permutations must come first: there are no permutations yet")
        load_tensors(self.model_b, self.match.permutations.apply(tensors_of("model_b", self.model_b)))


class MergeMany:
    """Several models into one: each in turn over the mean of the others (Ainsworth et al., algorithm 3).

    Args:
        models: two at least: modules, or files of state dicts that torch wrote. They are permuted in place; files are
            written anew.
        working_model: a model of their architecture. It holds the merged weights at the end.
        input_data: example inputs, as of `lmc_fast.derive_spec`.
        device: where to compute; None: where the first model is.
        logging_level: of `logging`; up to INFO there is a bar.
    """

    def __init__(
        self,
        models: Sequence[nn.Module | str | Path],
        working_model: nn.Module,
        input_data: Any,
        device: torch.device | str | None = None,
        logging_level: str | int = logging.ERROR,
    ) -> None:
        if isinstance(models, (str, nn.Module)) or not isinstance(models, Sequence):
            fail_type("models", "a sequence of modules or of files", models)
        for i, model in enumerate(models):
            check_type(f"models[{i}]", model, (nn.Module, str, Path), "a torch.nn.Module or a file")
        if len(models) < 2:
            raise ValueError(f"models must hold two at least, got {len(models)}")
        check_type("working_model", working_model, nn.Module, "a torch.nn.Module")
        self.models, self.working_model, self.input_data = models, working_model, input_data
        self.device = check_device("device", device)
        self.logging_level = parse_logging_level(logging_level)
        self._merged: nn.Module | None = None

    @property
    def merged_model(self) -> nn.Module:
        """The merged model; AttributeError before `run`."""
        if self._merged is None:
            raise AttributeError("there is no merged model yet: call run first")
        return self._merged

    @neutral
    def run(self, max_iterations: int = 100, max_iterations_pcd: int = 100) -> nn.Module:
        """Permute all models, and merge them.

        Statistics of BatchNorm are means of the models' own: `utils.recalculate_batch_norms` measures them.

        Args:
            max_iterations: passes over the models, at most.
            max_iterations_pcd: not needed: within a pass each model goes as far as it can.

        Returns:
            The merged model, a copy of `working_model`.
        """
        spec = symmetry.derive_spec(self.working_model, self.input_data)
        states = [tensors_of(f"models[{i}]", self._read(model)) for i, model in enumerate(self.models)]
        many = matching.match_many(
            states,
            spec,
            method="merge_many",
            max_sweeps=max_iterations,
            device=self.device,
            progress=self.logging_level <= logging.INFO,
        )
        moved = many.apply(states)
        for model, state in zip(self.models, moved, strict=True):
            self._write(model, state)
        load_tensors(self.working_model, merge(moved))
        self._merged = copied(self.working_model)
        return self._merged

    def _read(self, model: nn.Module | str | Path) -> Any:
        return model if isinstance(model, nn.Module) else torch.load(model, map_location="cpu", weights_only=True)

    def _write(self, model: nn.Module | str | Path, state: dict[str, torch.Tensor]) -> None:
        if isinstance(model, nn.Module):
            load_tensors(model, state)
        else:
            write_aside(Path(model), lambda part: torch.save(state, part))
