"""Matchers of others, called as their documentation says. To add one: a function under `@peer`.

Nothing of theirs is in this repository: packages are imported, clones by the path that `--clone NAME=PATH` gives.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import lmc_fast as lmc

from .matchers import CONTENDERS, DESCENT, RECENTRED, TEXTBOOK
from .pairs import Pair
from .solvers import OURS, Unavailable, version_of

__all__ = ["PEERS", "Peer", "Search", "axes_of", "peer"]

# The timed call -> the second model's tensors, laid over the first's.
Search = Callable[[], dict[str, Tensor]]
# (pair, folder of the clone or None) -> Search.
Prepare = Callable[[Pair, Path | None], Search]


@dataclass(frozen=True)
class Peer:
    """A matcher under the name of its row, where it is from (a distribution, or a clone), and what prepares it."""

    name: str
    distribution: str
    clone: str
    prepare: Prepare

    def version(self, clone: Path | None) -> str:
        """Of the distribution, or the clone's commit where it has one."""
        if self.distribution == OURS:
            return lmc.__version__
        if not self.clone or clone is None:
            return version_of(self.distribution)
        # A folder without a history of its own must not tell of one around it.
        if not (clone / ".git").exists():
            return ""
        done = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def __call__(self, pair: Pair, clone: Path | None) -> Search:
        """Make ready; Unavailable where it is not installed or does not take the pair."""
        if self.clone and clone is None:
            raise Unavailable(f"not installed: no --clone {self.clone}=PATH")
        try:
            return self.prepare(pair, clone)
        except ImportError as error:
            raise Unavailable(f"not installed: {error}") from error


PEERS: dict[str, Peer] = {}


def peer(name: str, distribution: str = "", clone: str = "") -> Callable[[Prepare], Prepare]:
    """Register a function as the peer `name`."""

    def register(prepare: Prepare) -> Prepare:
        PEERS[name] = Peer(name, distribution, clone, prepare)
        return prepare

    return register


def _contender(name: str) -> Prepare:
    def prepare(pair: Pair, clone: Path | None) -> Search:
        try:
            match = CONTENDERS[name](pair, float("inf"))
        except Unavailable as reason:
            raise Unavailable(f"not installed: {reason}") from reason
        return lambda: match(0).permuted()

    return prepare


peer(OURS, OURS)(_contender(OURS))
peer(DESCENT, OURS)(_contender(DESCENT))
peer("textbook loop", "scipy")(_contender(TEXTBOOK))
peer("textbook loop, re-centred warm start", "lapjv")(_contender(RECENTRED))
peer("rebasin", "rebasin")(_contender("rebasin"))


@peer("git-re-basin, PyTorch port", clone="git-re-basin-pytorch")
def _port(pair: Pair, clone: Path | None) -> Search:
    axes = axes_of(pair)
    module = _from(clone, "utils.weight_matching")
    spec = module.permutation_spec_from_axes_to_perm(axes)
    a, b = ({name: tensor for name, tensor in m.state_dict().items() if name in axes} for m in (pair.a, pair.b))

    def run() -> dict[str, Tensor]:
        with _quiet():
            return _laid(pair, module.weight_matching(spec, a, b))

    return run


@peer("C2M3's Frank-Wolfe search", clone="c2m3")
def _c2m3(pair: Pair, clone: Path | None) -> Search:
    axes = axes_of(pair)
    assert clone is not None
    # It sets up logging where there is none, by a package that may be a mock.
    logging.getLogger().addHandler(logging.NullHandler())
    with _stand_ins(_C2M3_NEEDS):
        module = _from(clone / "src", "ccmm.matching.frank_wolfe_matching")
        specs = importlib.import_module("ccmm.matching.permutation_spec")
    _on_cpu(module)
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, entries in axes.items():
        for axis, group in enumerate(entries):
            if group is not None:
                groups.setdefault(group, []).append((name, axis))
    spec = specs.PermutationSpec(perm_to_layers_and_axes=groups, layer_and_axes_to_perm=dict(axes))
    a, b = (model.state_dict() for model in (pair.a, pair.b))

    def run() -> dict[str, Tensor]:
        with _quiet():
            found, _ = module.frank_wolfe_weight_matching(spec, a, b, "identity", num_trials=1, device="cpu")
        return _laid(pair, found)

    return run


@peer("sinkhorn-rebasin, 50 steps", clone="sinkhorn-rebasin")
def _sinkhorn(pair: Pair, clone: Path | None) -> Search:
    package = _from(clone, "rebasin")
    losses = importlib.import_module("rebasin.loss")

    def run() -> dict[str, Tensor]:
        with _quiet(), torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            net = package.RebasinNet(copy.deepcopy(pair.b), input_shape=(1, *pair.inputs.shape[1:]))
            net.identity_init()
            loss_fn = losses.DistL2Loss(copy.deepcopy(pair.a))
            # As in its example of aligning two MLPs.
            optimizer = torch.optim.AdamW(net.p.parameters(), lr=0.1)
            net.train()
            for _ in range(50):
                optimizer.zero_grad()
                loss_fn(net()).backward()
                optimizer.step()
            net.eval()
            return {name: tensor.detach().clone() for name, tensor in net().state_dict().items()}

    return run


def axes_of(pair: Pair) -> dict[str, tuple[str | None, ...]]:
    """What counts, in the form that research code shares: by parameter the permutation of every axis.

    Raises:
        Unavailable: a spec with more than whole axes, which that form cannot say.
    """
    state = pair.a.state_dict()
    found: dict[str, tuple[str | None, ...]] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or name.endswith(("running_mean", "running_var")):
            continue
        entries: list[str | None] = [None] * tensor.ndim
        for axis, known in enumerate(pair.spec.axes.get(name, ())):
            groups = [segment for segment in known.segments if segment.group is not None]
            if not groups:
                continue
            (first, *others), whole = groups, len(known.segments) == 1
            if others or not whole or first.outer != 1 or first.inner != 1:
                raise Unavailable(f"does not take {pair.name}: {name} is permuted by parts of an axis")
            entries[axis] = first.group
        found[name] = tuple(entries)
    return found


def _laid(pair: Pair, choices: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {name: np.asarray(choice).astype(np.int64) for name, choice in choices.items()}
    return lmc.Permutations(pair.spec, found).apply(pair.b.state_dict())


def _from(folder: Path | None, module: str) -> ModuleType:
    """A module of a clone, ahead of any package of that name."""
    assert folder is not None
    if not folder.is_dir():
        raise Unavailable(f"not installed: no folder {str(folder)!r}")
    sys.path.insert(0, str(folder))
    return importlib.import_module(module)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _on_cpu(module: ModuleType) -> None:
    """Functions whose device is "cuda" unless it is told, which their own callers do not."""
    for function in vars(module).values():
        if isinstance(function, FunctionType) and function.__defaults__:
            function.__defaults__ = tuple("cpu" if value == "cuda" else value for value in function.__defaults__)


# What C2M3 imports for training, logging and drawing, none of which its search calls.
_C2M3_NEEDS = (
    *("backports", "graphviz", "hydra", "nn_core", "omegaconf", "pytorch_lightning", "scipy.misc", "torchmetrics"),
    *("torchviz", "torchvision", "tqdm", "transformers", "datasets", "wandb", "dotenv", "einops", "timm"),
)


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Mocks for packages that are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self._names):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "StrEnum":
            return _Words
        if name == "tqdm":
            return lambda values, *args, **options: values
        # A class: what is inherited from, or stands in annotations.
        return _Anything if name[0].isupper() and not name.isupper() else mock.MagicMock()


class _AnythingOf(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


class _Anything(metaclass=_AnythingOf):
    def __init__(self, *args: Any, **options: Any) -> None:
        pass


class _Words(str, enum.Enum):
    """`enum.StrEnum`, which Python 3.10 lacks."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:
        return name.lower()


@contextlib.contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Imports of these packages succeed, by mocks where they are not installed."""
    finder = _StandIns(names)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
