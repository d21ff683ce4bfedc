"""Gain matrices of real weight matching runs, captured in order and kept on disk.

The runs start from the identity, as in Ainsworth et al., "Git Re-Basin", ICLR 2023: early ones are far from settled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from lmc_fast import weight_matching
from lmc_fast.assignment import AssignmentSolver
from lmc_fast.experiments.datasets import load_dataset
from lmc_fast.experiments.models import MLP
from lmc_fast.experiments.training import train
from lmc_fast.matching.engine import descent
from lmc_fast.symmetry import architectures

__all__ = ["DEFAULT_CACHE", "GainStore", "by_torch"]

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "lmc_fast-benchmarks"

# A whole run at width 4096 would be 6 GB of matrices.
_WHOLE_RUN = 2048
_SWEEPS_BEYOND = 6


@contextmanager
def by_torch() -> Iterator[None]:
    """Searches that the core takes, a sweep a call, go step by step: gains by torch, a solver for each group."""
    with mock.patch.object(descent, "small_descent", lambda *_: None):
        yield


@dataclass(frozen=True)
class GainStore:
    """Captured gains, by width; a width is trained and matched when it is first asked for.

    Attributes:
        data: a path for `load_dataset`, or None for scikit-learn's digits.
        cache: folder in which captured runs are kept.
        say: told what takes long.
        steps: of training for each model, in batches of 64, rounded to whole epochs.
    """

    data: Path | None = None
    cache: Path = DEFAULT_CACHE
    say: Callable[[str], None] = print
    steps: int = 300

    def at(self, width: int, position: float) -> np.ndarray:
        """The gain matrix [width, width] float32 at a position of the run, from 0 (first) to 1 (last)."""
        files = self.run(width)
        return np.load(files[round(position * (len(files) - 1))][1])

    def run(self, width: int) -> list[tuple[str, Path]]:
        """(solver, file) of every assignment problem of the run, in the order in which they were solved.

        The matcher keeps a solver for each group of units; a label stands for one solver.
        """
        folder = self.cache / f"{'digits' if self.data is None else self.data.stem}-{width}"
        if not folder.exists():
            self._capture(width, folder)
        listing = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return [(label, folder / name) for label, name in listing["problems"]]

    def _capture(self, width: int, folder: Path) -> None:
        self.say(f"training two MLPs of width {width} and matching them, once, for {folder}")
        data = load_dataset("digits" if self.data is None else self.data)
        inputs, classes = data.train_inputs[0].numel(), data.classes
        epochs = max(1, round(self.steps / (len(data.train_inputs) // 64)))
        models = [train(lambda: MLP(inputs, (width,) * 3, classes), data, seed=seed, epochs=epochs) for seed in (0, 1)]
        self.cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self.cache))
        problems: list[tuple[str, str]] = []
        # The solvers themselves, so that none is taken for an earlier one that is gone.
        solvers: list[AssignmentSolver] = []
        solve = AssignmentSolver.solve

        def record(solver: AssignmentSolver, cost: Any, **options: Any) -> Any:
            if not any(solver is known for known in solvers):
                solvers.append(solver)
            label = str(next(k for k, known in enumerate(solvers) if known is solver))
            problems.append((label, f"{len(problems):03d}.npy"))
            np.save(aside / problems[-1][1], np.ascontiguousarray(cost, dtype=np.float32))
            return solve(solver, cost, **options)

        sweeps = 100 if width <= _WHOLE_RUN else _SWEEPS_BEYOND
        try:
            with by_torch(), mock.patch.object(AssignmentSolver, "solve", record):
                match = weight_matching(*models, architectures.mlp(models[0]), init="identity", max_sweeps=sweeps)
            about = {"width": width, "data": data.name, "epochs": epochs, "sweeps": len(match.history)}
            listing = {**about, "converged": match.converged, "problems": problems}
            (aside / "run.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
