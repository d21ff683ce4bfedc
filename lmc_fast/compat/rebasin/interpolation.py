"""Models between models, evaluated and written one after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._backend import check_device
from ..._checks import check_int, check_type, fail_type
from ..._files import write_aside
from ..._modes import neutral
from ..._progress import tracking
from ...merging import interpolate
from .utils import check_indices, check_share, parse_logging_level, recalculate_batch_norms

__all__ = ["Interpolation", "LerpSimple"]

Evaluate = Callable[[nn.Module, Any], float]


def _nothing(model: nn.Module, device: Any) -> float:
    return 0.0


class Interpolation:
    """Base of what makes models between models.

    Args:
        models: two at least, of one architecture; none is changed.
        eval_fn: (model, device) -> a number, for every model in between.
        eval_mode: "min" or "max": whether a small or a great number is good.
        train_dataloader: batches to measure BatchNorm statistics of each model in between on; None: they are
            interpolated.
        dataset_percentage, dataset_iterations, input_indices: as of `utils.recalculate_batch_norms`, whose
            ``iterations`` is the second one.
        devices: taken; every model is read where it is.
        device_interp: where the models in between are made; None: where the first one of each pair is.
        savedir: a folder that is there, for the state dicts of all models in between; None: they are not kept.
        logging_level: of `logging`; up to INFO there is a bar.

    Attributes:
        metrics_interpolated: what `eval_fn` gave, in order.
        best_model: the first of those with the best number; best_metric: that number.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        eval_fn: Evaluate = _nothing,
        eval_mode: str = "min",
        train_dataloader: Iterable[Any] | None = None,
        dataset_percentage: float = 1.0,
        dataset_iterations: int = -1,
        input_indices: Sequence[int] | int = 0,
        devices: Sequence[torch.device | str | None] | None = None,
        device_interp: torch.device | str | None = None,
        savedir: Path | str | None = None,
        logging_level: int | str = "ERROR",
    ) -> None:
        if isinstance(models, nn.Module) or not isinstance(models, Sequence):
            fail_type("models", "a sequence of torch.nn.Modules", models)
        for i, model in enumerate(models):
            check_type(f"models[{i}]", model, nn.Module, "a torch.nn.Module")
        if len(models) < 2:
            raise ValueError(f"models must hold two at least, got {len(models)}")
        if not callable(eval_fn):
            fail_type("eval_fn", "a function of a model and a device", eval_fn)
        if eval_mode not in ("min", "max"):
            raise ValueError(f"eval_mode must be 'min' or 'max', got {eval_mode!r}")
        if devices is not None and len(devices) != len(models):
            raise ValueError(f"devices must name one for each of the {len(models)} models, got {len(devices)}")
        self.models, self.eval_fn, self.eval_mode = list(models), eval_fn, eval_mode
        self.train_dataloader = train_dataloader
        self.dataset_percentage = check_share(dataset_percentage)
        self.dataset_iterations = check_int("dataset_iterations", dataset_iterations, -1)
        self.input_indices = check_indices(input_indices)
        self.devices = [check_device(f"devices[{i}]", device) for i, device in enumerate(devices or ())]
        self.device_interp = check_device("device_interp", device_interp)
        self.savedir = _folder(savedir)
        self.logging_level = parse_logging_level(logging_level)
        self.metrics_interpolated: list[float] = []
        self.best_metric = float("inf") if eval_mode == "min" else -float("inf")
        self.best_model: nn.Module | None = None

    def interpolate(self, steps: int = 20, savedir: str | Path | None = None) -> None:
        """Make the models in between."""
        raise NotImplementedError(f"{type(self).__name__} must say how it interpolates: define interpolate")


class LerpSimple(Interpolation):
    """Linear interpolation between each model and the next one. Its arguments are those of `Interpolation`."""

    @neutral
    def interpolate(self, steps: int = 20, savedir: str | Path | None = None) -> None:
        """Make `steps` models between each two neighbours, at (k + 1) / (steps + 2) of the way for k from 0.

        Args:
            savedir: instead of the object's own. The file of a model between models i and i + 1 is called
                ``interp_models_{i}_{i+1}_perc_{share}.pt``, the share with three digits; one that is there is replaced.
        """
        check_int("steps", steps, 1)
        folder = self.savedir if savedir is None else _folder(savedir)
        with tracking(self.logging_level <= logging.INFO, "interpolate", steps * (len(self.models) - 1)) as advance:
            for step in range(steps):
                share = (step + 1) / (steps + 2)
                for i, (one, other) in enumerate(zip(self.models, self.models[1:], strict=False)):
                    model = interpolate(one, other, share)
                    self._take(model if self.device_interp is None else model.to(self.device_interp))
                    if folder is not None:
                        state = model.state_dict()
                        path = folder / f"interp_models_{i}_{i + 1}_perc_{share:.3f}.pt"
                        write_aside(path, lambda part, state=state: torch.save(state, part))  # type: ignore[misc]
                    advance("")

    def _take(self, model: nn.Module) -> None:
        """Measure a model's statistics and its number, and keep it if it is the best one."""
        if self.train_dataloader is not None:
            recalculate_batch_norms(
                model,
                self.train_dataloader,
                self.input_indices,
                self.device_interp,
                dataset_percentage=self.dataset_percentage,
                iterations=self.dataset_iterations,
            )
        metric = float(self.eval_fn(model, self.device_interp))
        self.metrics_interpolated.append(metric)
        if metric < self.best_metric if self.eval_mode == "min" else metric > self.best_metric:
            self.best_metric, self.best_model = metric, model


def _folder(savedir: object) -> Path | None:
    if savedir is None:
        return None
    check_type("savedir", savedir, (str, Path), "a folder or None")
    path = Path(savedir)  # type: ignore[arg-type]
    if not path.is_dir():
        raise ValueError(f"savedir must be a folder that is there, got {str(savedir)!r}")
    return path
