"""One side of a script of research code: its search, called as the script calls it, from its own clone or from ours.

`python -m benchmarks.script_sides SCRIPT PAIR RESULT [--clone FOLDER]`, a process for each side, which `scripts`
starts: the two have modules of the same names.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmc_fast.experiments.models import MLP

__all__ = ["SCRIPTS", "Script", "build", "named"]

HIDDEN = 3
State = dict[str, Tensor]


@dataclass(frozen=True)
class Script:
    """A script's search.

    Attributes:
        repository: whose script this is, as ``--clone`` calls it.
        ours: the module of this package; theirs: theirs, from the folder `root` of the clone.
        what: what is called.
        run: (module, state dict a, state dict b, width) -> the permuted state dict b, from a copy of b.
    """

    repository: str
    ours: str
    theirs: str
    what: str
    run: Callable[[Any, State, State, int], State]
    root: str = "."


def build(width: int) -> nn.Module:
    """The MLP of these scripts: three hidden layers."""
    return MLP(64, [width] * HIDDEN, 10)


def named(state: Mapping[str, Tensor]) -> State:
    """The tensors of an MLP under the scripts' names, layer0 to layer3."""
    numbers = {name.rpartition(".")[0]: None for name in state}
    layers = {layer: f"layer{i}" for i, layer in enumerate(numbers)}
    return {f"{layers[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": w for name, w in state.items()}


class Net(nn.Module):
    """The scripts' MLP itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [64, *[width] * HIDDEN, 10]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            self.add_module(f"layer{i}", nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(HIDDEN):
            x = torch.relu(self.get_submodule(f"layer{i}")(x))
        return self.get_submodule(f"layer{HIDDEN}")(x)


def _net(state: State, width: int) -> Net:
    net = Net(width)
    net.load_state_dict(state)
    return net.eval()


def _port(module: Any, a: State, b: State, width: int) -> State:
    ps = module.mlp_permutation_spec(HIDDEN) if hasattr(module, "mlp_permutation_spec") else module
    return module.apply_permutation(ps, module.weight_matching(ps, a, b), b)


def _merge_pytorch(module: Any, a: State, b: State, width: int) -> State:
    ps = module.mlp_permutation_spec(HIDDEN, True)
    perm, _ = module.weight_matching(ps, a, b, max_iter=300, init_perm=None, print_flg=False)
    return module.apply_permutation(ps, perm, b)


def _flat(module: Any, a: State, b: State, width: int) -> State:
    ps = module.mlp_permutation_spec(HIDDEN, True)
    none = {name: torch.zeros_like(w) for name, w in a.items()}
    perm, _ = module.flat_weight_matching_v2(ps, a, b, none, none, lam=1.0, max_iter=5000, print_flg=False)
    return module.apply_permutation(ps, perm, b)


def _ste_mm(module: Any, a: State, b: State, width: int) -> State:
    net = _net(b, width)
    matcher = module.weight_matching(module.generate_permutation_spec(net, [1, 64]))
    matcher.fit(a, b)
    matcher.transform(net)
    return net.state_dict()


def _rethink(module: Any, a: State, b: State, width: int) -> State:
    ps = module.mlp_permutation_spec(HIDDEN)
    perm = module.get_wm_perm(ps, a, b, max_iter=100, device="cpu")
    return module.apply_permutation(ps, perm, b, device="cpu")


def _c2m3(module: Any, a: State, b: State, width: int) -> State:
    spec = _piece(module, "permutation_spec", "MLPPermutationSpecBuilder")(HIDDEN).create_permutation_spec()
    perm = module.weight_matching(ps=spec, fixed=a, permutee=b, max_iter=100)
    return _piece(module, "utils", "apply_permutation_to_statedict")(spec, perm, b)


def _piece(module: Any, neighbour: str, name: str) -> Any:
    """A name of the module, or of the one beside it where theirs has it."""
    if hasattr(module, name):
        return getattr(module, name)
    return getattr(importlib.import_module(f"{module.__name__.rpartition('.')[0]}.{neighbour}"), name)


def _sinkhorn(module: Any, a: State, b: State, width: int) -> State:
    net = module.RebasinNet(_net(b, width), input_shape=(1, 64))
    net.identity_init()
    criterion = module.DistL2Loss(_net(a, width))
    optimizer = torch.optim.AdamW(net.p.parameters(), lr=0.1)
    for _ in range(20):
        net.train()
        loss = criterion(net())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    return deepcopy(net()).state_dict()


def _rebasin(module: Any, a: State, b: State, width: int) -> State:
    model = _net(b, width)
    module.PermutationCoordinateDescent(_net(a, width), model, torch.randn(1, 64)).rebasin()
    return model.state_dict()


SCRIPTS = {
    "git-re-basin-pytorch": Script(
        "git-re-basin-pytorch",
        "lmc_fast.compat.git_re_basin_pytorch",
        "utils.weight_matching",
        "weight_matching(ps, a, b)",
        _port,
    ),
    "re-basin-merge-pytorch": Script(
        "re-basin-merge-pytorch",
        "lmc_fast.compat.re_basin_merge_pytorch",
        "matching.weight_matching",
        "weight_matching(ps, a, b, max_iter=300)",
        _merge_pytorch,
    ),
    "re-basin-merge-pytorch-flat": Script(
        "re-basin-merge-pytorch",
        "lmc_fast.compat.re_basin_merge_pytorch",
        "matching.weight_matching",
        "flat_weight_matching_v2(ps, a, b, grad_a, grad_b, lam=1)",
        _flat,
    ),
    "STE-MM": Script(
        "STE-MM",
        "lmc_fast.compat.ste_mm",
        "search.weight_matching",
        "generate_permutation_spec(net, shape); weight_matching(ps).fit(a, b)",
        _ste_mm,
        "srcs",
    ),
    "rethink-re-basin": Script(
        "rethink-re-basin",
        "lmc_fast.compat.rethink_re_basin",
        "source.utils.weight_matching",
        "get_wm_perm(ps, a, b, device='cpu')",
        _rethink,
    ),
    "C2M3": Script(
        "C2M3",
        "lmc_fast.compat.c2m3",
        "ccmm.matching.weight_matching",
        "weight_matching(ps=spec, fixed=a, permutee=b)",
        _c2m3,
        "src",
    ),
    "sinkhorn-rebasin": Script(
        "sinkhorn-rebasin",
        "lmc_fast.compat.sinkhorn_rebasin",
        "rebasin",
        "RebasinNet(net, shape) and DistL2Loss, 20 steps of AdamW",
        _sinkhorn,
    ),
    "rebasin": Script(
        "rebasin",
        "lmc_fast.compat.rebasin",
        "rebasin",
        "PermutationCoordinateDescent(a, b, x).rebasin()",
        _rebasin,
    ),
}


class _Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that a clone imports and its search does not need (loggers, trainers, plots)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Only for what is imported by a file of the clone, and what lies below it."""
        frame = sys._getframe(1)
        while frame is not None:
            inside = str(frame.f_code.co_filename).startswith(str(self.root))
            if inside or name.rpartition(".")[0] in self.asked:
                self.asked.add(name)
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            if "importlib" not in frame.f_code.co_filename:
                return None
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module any name of which is a class that does nothing."""
        module = types.ModuleType(spec.name)
        module.StrEnum = enum.StrEnum if hasattr(enum, "StrEnum") else enum.Enum  # type: ignore[attr-defined]
        module.__getattr__ = lambda name: _nothing(name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to do."""


class _Idle:
    """Whatever is asked of it, it hands back what it is given first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Taken, and forgotten."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else None

    def __getattr__(self, name: str) -> Any:
        return _Idle()


class _Kind(type):
    """Of classes whose every attribute is another one, and that paths can be joined to."""

    def __getattr__(cls, name: str) -> Any:
        return _nothing(name)

    def __truediv__(cls, other: object) -> Any:
        return cls


def _nothing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Kind(name, (_Idle,), {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one side, twice, and write the state dict and the least processor time; or why it does not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("pair", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--clone", type=Path)
    parsed = parser.parse_args(arguments)
    script = SCRIPTS[parsed.script]
    pair = torch.load(parsed.pair, weights_only=True)
    a, b, width = pair["a"], pair["b"], pair["width"]
    torch.set_num_threads(1)
    if parsed.clone is not None:
        root = (parsed.clone / script.root).resolve()
        sys.path.insert(0, str(root))
        sys.meta_path.append(_Missing(parsed.clone.resolve()))
    result: dict[str, Any] = {"seconds": None}
    # These scripts print every step.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            module = importlib.import_module(script.ours if parsed.clone is None else script.theirs)
            if script.repository == "sinkhorn-rebasin" and parsed.clone is not None:
                module.DistL2Loss = importlib.import_module("rebasin.loss").DistL2Loss  # type: ignore[attr-defined]
            for _ in range(2):
                torch.manual_seed(0)
                began = time.process_time()
                moved = script.run(module, dict(a), dict(b), width)
                seconds = time.process_time() - began
                result["seconds"] = seconds if result["seconds"] is None else min(seconds, result["seconds"])
            result["moved"] = {name: w.detach().clone() for name, w in moved.items()}
        except Exception as error:
            # Whatever stops a clone is told in its row: a package that is missing, a version that it does not know.
            if parsed.clone is None:
                raise
            result["why"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    torch.save(result, parsed.result)


if __name__ == "__main__":
    main()
