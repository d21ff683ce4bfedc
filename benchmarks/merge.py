"""`merge`: two planted Llama checkpoints merged on disk: time, the share of products, own memory, groups recovered."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lmc_fast.large import MergeResult, merge_checkpoints
from lmc_fast.large.memory import give_back

from .checkpoint_pairs import SIZES, make_pair

__all__ = ["register"]


@dataclass
class _Products:
    """Seconds and operations of the products that gains are summed from."""

    seconds: float = 0.0
    operations: float = 0.0


@contextmanager
def _timed_products() -> Iterator[_Products]:
    found, plain = _Products(), torch.Tensor.addmm_

    def timed(self: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        result = plain(self, a, b)
        found.seconds += time.perf_counter() - began
        found.operations += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
        return result

    torch.Tensor.addmm_ = timed  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        torch.Tensor.addmm_ = plain  # type: ignore[method-assign]


class _OwnMemory(threading.Thread):
    """The most memory of the process's own (page cache aside) while it runs; Linux only."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, _anonymous_bytes())


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def _run(parsed: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        print("size     seconds  products  ratio  TFLOP/s  own MiB  groups")
        for name in parsed.sizes:
            pair = Path(folder, name)
            back = make_pair(pair, SIZES[name], noise=parsed.noise)
            # What making them took is not the merge's.
            give_back()
            memory = _OwnMemory()
            memory.start()
            with _timed_products() as products:
                result: MergeResult = merge_checkpoints(
                    pair / "A", pair / "B", out=pair / "out", spec=pair / "spec.json"
                )
            memory.over.set()
            found = result.matches[0]
            right = sum(torch.equal(choice, back[group]) for group, choice in found.permutations.items())
            print(
                f"{name:<8} {result.seconds:7.1f} {products.seconds:9.1f} {found.seconds / products.seconds:6.2f} "
                f"{products.operations / products.seconds / 1e12:8.3f} {memory.most / 2**20:8.0f}  {right}/{len(back)}"
            )
    return 0


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("merge", help=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["119m"])
    parser.add_argument("--noise", type=float, default=0.1, help="share of the weights' deviation")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, and removed again")
    parser.set_defaults(run=_run)
