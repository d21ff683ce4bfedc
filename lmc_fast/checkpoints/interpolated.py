"""The models on the line between two, each in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .._batches import check_batches
from .._calls import Forward, check_forward
from .._checks import check_finite, check_floats, check_int, check_type
from .._models import Model, tensors_of, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from .._version import __version__
from ..matching.results.matching import Match
from ..merging import interpolate
from ..repairing import reestimate_batchnorm
from .files import check_writable, save_checkpoint

__all__ = ["save_interpolated"]


@neutral
def save_interpolated(
    model_a: Model,
    model_b: Model,
    pattern: str | Path,
    match: Match = None,
    *,
    lambdas: int | Sequence[float] = 11,
    batchnorm_batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    overwrite: bool = False,
    progress: Progress = False,
) -> list[Path]:
    """Write every model of the line from model a to the moved model b, one at a time in memory.

    Args:
        model_a, model_b: modules or state dicts of one architecture; neither is changed.
        pattern: of the paths, ending in ``.safetensors``: ``{lam}`` stands for lambda and ``{index}`` for the number
            from 0, with formats as Python has them: ``"line/{index:02d}_{lam:.2f}.safetensors"``. The folder exists.
        match: a `Matching`, `Permutations` or `Transforms` for model b; None: as it is.
        lambdas: how many evenly spaced points from 0 to 1, or the points, of which those outside 0..1 extrapolate.
        batchnorm_batches: where given, BatchNorm statistics are re-estimated on these for every model, as by
            `reestimate_batchnorm`; model a is a module then. None: they are interpolated.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`.
        overwrite: whether files that exist may be replaced.
        progress: True for a bar, a function (description, done, total), or a `Logger`.

    Returns:
        The paths, in the order of the points. Each file's header says its lambda, under ``lmc_fast.lambda``.

    Raises:
        FileExistsError: one of the files exists, and `overwrite` is False: nothing has been written then.
        FileNotFoundError: the folder does not exist.
        TypeError: an argument of the wrong kind.
        ValueError: a pattern that gives one path for two points or has another ending, fewer than two points, or models
            that do not fit each other.
        OSError: a file cannot be written to; those before it are whole.
    """
    check_type("pattern", pattern, (str, Path), "text or a path with {lam} or {index}")
    check_forward(forward)
    points = check_floats("lambdas", lambdas) if hasattr(lambdas, "__len__") else _spaced(lambdas)
    paths = _paths(str(pattern), points)
    for path in paths:
        check_writable(path, overwrite=overwrite)
    if batchnorm_batches is not None:
        check_type("model_a", model_a, nn.Module, "a torch.nn.Module, to measure BatchNorm statistics with")
        model_a = unwrapped("model_a", model_a)
        batchnorm_batches = check_batches("batchnorm_batches", batchnorm_batches)
    with tracking(progress, "writing the line", len(points)) as advance:
        for point, path in zip(points, paths, strict=True):
            model: Any = interpolate(model_a, model_b, point, match)
            if batchnorm_batches is not None:
                model = reestimate_batchnorm(model, batchnorm_batches, forward=forward)
            header = {"lmc_fast.version": __version__, "lmc_fast.lambda": repr(point)}
            save_checkpoint(path, tensors_of("model", model), metadata=header, overwrite=overwrite)
            advance(path.name, **{"lambda": point})
    return paths


def _spaced(count: Any) -> list[float]:
    check_int("lambdas", count, 2)
    return [k / (count - 1) for k in range(count)]


def _paths(pattern: str, points: Sequence[float]) -> list[Path]:
    try:
        paths = [Path(pattern.format(lam=check_finite("lambdas", lam), index=k)) for k, lam in enumerate(points)]
    except (KeyError, IndexError) as error:
        raise ValueError(f"pattern must have no fields but {{lam}} and {{index}}, got {pattern!r}") from error
    if len(set(paths)) < len(paths):
        raise ValueError(f"pattern must give a path of its own for each of {len(paths)} points, got {pattern!r}")
    return paths
