"""What merges a pair of checkpoints on disk, each in a process of its own, with its time and memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lmc_fast
from lmc_fast import Matching
from lmc_fast.checkpoints.headers import read_header
from lmc_fast.checkpoints.mapped import MappedTensors
from lmc_fast.checkpoints.shards import shards_of
from lmc_fast.large import merge_checkpoints
from lmc_fast.large.matcher import Matcher
from lmc_fast.large.reports import reporter
from lmc_fast.matching.engine.products import Products

from .solvers import Unavailable

__all__ = ["CONTENDERS", "MERGEKIT", "OURS", "PLAIN", "agree"]

OURS, PLAIN, MERGEKIT = "aligned", "plain", "mergekit"
# Between two looks at the memory of a process, in seconds.
LOOK = 0.005


@dataclass
class Cost:
    """Seconds of the clock, of the processors, and until all that was written is on the disk; the most own memory."""

    seconds: float = 0.0
    processor: float = 0.0
    on_disk: float = 0.0
    own: int = 0

    def row(self) -> dict[str, Any]:
        """As a row has it."""
        return {
            "seconds": self.seconds,
            "processor_s": self.processor,
            "on_disk_s": self.on_disk,
            "own_mib": self.own / 2**20,
            "status": "ok",
        }


@dataclass
class Spent:
    """Seconds and operations of the products that gains are summed from, and the processors' time of the search."""

    seconds: float = 0.0
    processor: float = 0.0
    operations: float = 0.0
    match_processor: float = 0.0


@contextmanager
def timed_products() -> Iterator[Spent]:
    """Count the time of every product that is added to a gain, and of the search around them."""
    found, plain, search = Spent(), Products.add, Matcher.matched

    def timed(self: Products, gain: Tensor, a: Tensor, b: Tensor, is_new: bool) -> None:
        began, used = time.perf_counter(), time.process_time()
        plain(self, gain, a, b, is_new)
        found.seconds += time.perf_counter() - began
        found.processor += time.process_time() - used
        found.operations += 2.0 * a.shape[0] * a.shape[1] * b.shape[0]

    def searched(self: Matcher, m: int) -> Matching:
        used = time.process_time()
        match = search(self, m)
        found.match_processor += time.process_time() - used
        return match

    Products.add = timed  # type: ignore[method-assign]
    Matcher.matched = searched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Products.add = plain  # type: ignore[method-assign]
        Matcher.matched = search  # type: ignore[method-assign]


class _OwnMemory(threading.Thread):
    """The most memory of the process's own (page cache aside) while it runs; Linux only."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(LOOK):
            self.most = max(self.most, _anonymous_bytes())


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@contextmanager
def measured() -> Iterator[Cost]:
    """What is done in here, measured."""
    cost, memory = Cost(), _OwnMemory()
    memory.start()
    began, used = time.perf_counter(), time.process_time()
    yield cost
    cost.seconds, cost.processor = time.perf_counter() - began, time.process_time() - used
    memory.over.set()
    memory.join()
    os.sync()
    cost.on_disk = time.perf_counter() - began
    cost.own = memory.most


def _aligned(pair: Path, site: Path | None) -> dict[str, Any]:
    """ours, with the planted permutation to be found"""
    with measured() as cost, timed_products() as products:
        told: dict[str, Any] = {"spec": pair / "spec.json", "listener": reporter("text", sys.stderr)}
        result = merge_checkpoints(pair / "A", pair / "B", out=pair / f"out {OURS}", **told)
    (match,) = result.matches
    back = MappedTensors(read_header(pair / "back.safetensors").tensors)
    right = sum(torch.equal(choice, back[group]) for group, choice in match.permutations.items())
    row = cost.row()
    if right < len(back):
        row["status"] = f"wrong: {len(back) - right} groups are not where they were"
    return row | {
        "match_s": match.seconds,
        "products_s": products.seconds,
        "ratio": match.seconds / products.seconds,
        "processor_ratio": products.match_processor / products.processor,
        "tflops": products.operations / products.seconds / 1e12,
        "found": f"{right}/{len(back)}",
        "version": lmc_fast.__version__,
    }


def _plain(pair: Path, site: Path | None) -> dict[str, Any]:
    """ours, units as they are"""
    with measured() as cost:
        merge_checkpoints(pair / "A", pair / "B", out=pair / f"out {PLAIN}", method="none")
    row = cost.row()
    if not agree(pair, pair / f"out {PLAIN}"):
        row["status"] = "wrong: not the mean of the two"
    return row | {"version": lmc_fast.__version__}


def _mergekit(pair: Path, site: Path | None) -> dict[str, Any]:
    """mergekit's linear merge, which aligns nothing"""
    if site is not None:
        # Before the packages that are here: it has versions of its own of some of them.
        sys.path.insert(0, str(site))
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import MergeOptions, run_merge
    except ImportError as error:
        raise Unavailable(f"mergekit is not installed ({error}): pip install --target SITE mergekit") from None
    models = [{"model": str(pair / name), "parameters": {"weight": 0.5}} for name in ("A", "B")]
    told = {"merge_method": "linear", "dtype": "bfloat16", "models": models}
    config = MergeConfiguration.model_validate(told)
    options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
    with measured() as cost:
        run_merge(config, out_path=str(pair / f"out {MERGEKIT}"), options=options)
    return cost.row() | {"version": metadata.version("mergekit")}


CONTENDERS: dict[str, Callable[[Path, Path | None], dict[str, Any]]] = {
    OURS: _aligned,
    PLAIN: _plain,
    MERGEKIT: _mergekit,
}


def agree(pair: Path, out: Path, tensors: int = 8) -> bool:
    """Whether a folder holds the mean of the pair's tensors, to the last digit of bfloat16; some are looked at."""
    found, a, b = (MappedTensors(shards_of(path).tensors) for path in (out, pair / "A", pair / "B"))
    if set(found) != set(a):
        return False
    for name in sorted(a)[:: max(1, len(a) // tensors)]:
        wanted = (a[name].float() + b[name].float()) / 2
        if found[name].shape != wanted.shape or not torch.allclose(found[name].float(), wanted, rtol=2**-7, atol=1e-4):
            return False
    return True
