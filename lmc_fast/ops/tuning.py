"""Configurations of kernels, measured once for a kind of card and of problem, and kept on disk.

Off unless asked for (`_backend.autotuning`), and never in Triton's interpreter. Every choice is a file of its own below
`_backend.cache_folder()`, written aside and renamed: processes side by side never read half a choice, and lose none of
each other's. Done here and not by `triton.autotune`, whose cache on disk is newer than the oldest Triton that we take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton
from triton.errors import TritonError

from .._backend import autotuning, cache_folder, interpreted, warn_once
from .._files import write_text

__all__ = ["milliseconds", "size_class", "tuned"]

# Raised where what is measured changes, for older choices not to be taken.
FORMAT = "1"

Config = TypeVar("Config", bound=tuple[int, ...])

# What this process has chosen or read: places among the configurations, by everything that decides them.
_chosen: dict[tuple[object, ...], int] = {}


def tuned(
    kernel: str,
    problem: Mapping[str, object],
    configs: Sequence[Config],
    prepare: Callable[[Config], Callable[[], object]],
    device: torch.device,
    *,
    timer: Callable[[Callable[[], object]], float] | None = None,
) -> Config:
    """The first of a kernel's configurations; where tuning is on the fastest, as it is known from before or measured.

    One that does not compile or start is passed over. A file that holds no choice of this problem is passed over with
    one warning, and so is a folder that cannot be written to.

    Args:
        kernel: its name.
        problem: what decides which is the fastest, by name: dtypes, and sizes by `size_class`.
        configs: what to choose from, the default first.
        prepare: makes the launch with a configuration, which is then repeated: it may write only what nobody reads
            before the launch proper.
        device: where it runs.
        timer: the time that a launch takes. None: `milliseconds`.
    """
    if not autotuning() or interpreted():
        return configs[0]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    told = {name: str(value).removeprefix("torch.") for name, value in problem.items()}
    key = {"format": FORMAT, "card": card, "triton": triton.__version__, "kernel": kernel, **told}
    asked = (*key.items(), *configs)
    if asked in _chosen:
        return configs[_chosen[asked]]
    path = _path(card, kernel, told)
    choice = None if path is None else _read(path, key, configs)
    if choice is None:
        times = _times(configs, prepare, milliseconds if timer is None else timer)
        choice = min(times, key=times.__getitem__, default=configs[0])
        if path is not None and times:
            _keep(path, {"key": key, "config": choice, "times": list(times.items())})
    _chosen[asked] = configs.index(choice)
    return choice


def size_class(size: int) -> int:
    """The power of two that a size is at least: sizes of one class share a choice. 0 for 0."""
    return 1 << size.bit_length() - 1 if size else 0


def milliseconds(launch: Callable[[], object]) -> float:
    """The median time of a launch by the GPU's clock, its cache emptied before each."""
    return float(triton.testing.do_bench(launch, return_mode="median"))


def _times(
    configs: Sequence[Config],
    prepare: Callable[[Config], Callable[[], object]],
    timer: Callable[[Callable[[], object]], float],
) -> dict[Config, float]:
    times = {}
    for config in configs:
        try:
            times[config] = timer(prepare(config))
        # Triton's own for what does not fit the card, the driver's and the compiler's as RuntimeError.
        except (TritonError, RuntimeError):
            continue
    return times


def _path(card: str, kernel: str, problem: Mapping[str, str]) -> Path | None:
    """The file of a choice: a folder for each kind of card and Triton, a name that tells the problem."""
    folder = cache_folder()
    if folder is None:
        return None
    words = [kernel, *(f"{name}-{value}" for name, value in problem.items())]
    return folder / "kernels" / _plain(f"{card}-triton-{triton.__version__}") / f"{_plain('-'.join(words))}.json"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text)


def _read(path: Path, key: Mapping[str, str], configs: Sequence[Config]) -> Config | None:
    """The choice in a file; None where there is none, or none of this problem, or one that is no longer listed."""
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        warn_once(f"{str(path)!r} is not used: it cannot be read ({error})")
        return None
    if not isinstance(kept, dict) or kept.get("key") != key or not isinstance(kept.get("config"), list):
        warn_once(f"{str(path)!r} is not used: it holds no choice of a configuration for this kernel and card")
        return None
    return next((config for config in configs if list(config) == kept["config"]), None)


def _keep(path: Path, choice: Mapping[str, object]) -> None:
    text = json.dumps(choice, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        warn_once(f"choices of configurations are not kept in {str(path.parent)!r}: {error.strerror}")
