"""ZipIt: units of two models merged within each model as well as across, up to a layer, with both heads behind it.

Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, "ZipIt! Merging Models from Different Tasks without Training" (ICLR
2024). With S [2 n, n] the clusters of a group's units (a one in each row) and D their sizes, merged units are
M = D^-1 S^T of both models' units, which are S of them again. A weight W becomes M_out diag(W_a, W_b) S_in: rows of one
cluster are averaged, columns of one cluster summed.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .._batches import Batch, check_batches
from .._calls import Calls, Forward, check_forward, in_eval
from .._checks import check_finite, check_type
from .._derived import derived_weights
from .._models import (
    accumulate_dtype,
    check_numbers,
    check_same_tensors,
    copied,
    device_of,
    load_tensors,
    tensors_of,
    unwrapped,
)
from .._modes import neutral
from .._nested import leaves as leaves_in
from .._progress import Progress
from .._tensors import FLOATS, tensor_identity
from ..matching.activations.crossing import activation_gains
from ..matching.activations.watching import places_of, run
from ..matching.given import spec_of
from ..matching.verification import ensure_verified
from ..symmetry import Permutations, PermutationSpec
from ..symmetry.mixing import mixed
from .clusters import clusters_of
from .zipped import Gathered, Zipped, heads_of, without

__all__ = ["ZipResult", "zip_models"]

# Layers whose weights it is known of which axis is summed over.
KNOWN = (nn.Linear, _ConvNd, nn.Embedding, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# How exactly the boundary's output moves with its units, relative to the largest entry.
TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class ZipResult:
    """Two models zipped together.

    Attributes:
        model: a module of the models' class, or a `Zipped` with both heads.
        clusters: for every group that was merged the cluster of each unit: int64 [2, units], model a's and model b's.
    """

    model: nn.Module
    clusters: Mapping[str, Tensor]

    @property
    def within(self) -> dict[str, tuple[int, int]]:
        """For every group how many units of model a, and of model b, lie with another one of the same model."""
        return {name: tuple(row.numel() - row.unique().numel() for row in of) for name, of in self.clusters.items()}

    def __str__(self) -> str:
        units = sum(of.shape[1] for of in self.clusters.values())
        inside = [sum(of[k] for of in self.within.values()) for k in (0, 1)]
        behind = f", up to {self.model.up_to!r}" if isinstance(self.model, Zipped) else ""
        return (
            f"zipped: {len(self.clusters)} groups of {units} units{behind}; {inside[0]} units of model a and "
            f"{inside[1]} of model b lie with another one of their own"
        )


@neutral
def zip_models(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    spec: PermutationSpec | None = None,
    *,
    up_to: str | None = None,
    again: float = 0.3,
    within: float = 0.125,
    watch: str = "inputs",
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
    example_inputs: Any = None,
) -> ZipResult:
    """Merge two models by putting together whichever units correlate most, of one model or of both.

    A permutation lays one unit of model b over each of model a, also where model b has none that is like it. Models of
    different tasks have many such units, and many that are alike within themselves: those are merged here (Stoica et
    al., "ZipIt!", ICLR 2024). Deep layers of different tasks have little in common: with `up_to` only what runs up to
    that layer is merged, and both models' own layers behind it give both outputs.

    BatchNorm statistics of what is merged are averaged: measure them again (`reestimate_batchnorm` takes the result).

    Args:
        model_a, model_b: modules of one architecture; left as they are.
        batches: inputs, or (inputs, targets) pairs, the same for both; of both tasks, where they differ. A list or a
            DataLoader. `_batches` tells what else a batch may be.
        spec: what may be permuted, of groups that nothing owns; None: what `derive_spec` finds in model a.
        up_to: name of the last module that is merged. It runs once, its output is one tensor, and all that comes behind
            it goes through that tensor: this is tried. None: everything is merged, the outputs too.
        again: how eager a cluster that was joined is to be joined again, 0..1 (the paper's alpha).
        within: of a group's units the largest share, of each model, that may lie with another one of the same model,
            0..1 (the paper's beta). At 0 it is a matching, by greed in place of `activation_matching`'s best.
        watch, forward, device, progress, example_inputs: as of `activation_matching`, which is run on each model by
            itself as well as on both.

    Returns:
        A `ZipResult`; its `model` is of the models' class, or a `Zipped`, in eval mode.

    Raises:
        SymmetryError: the spec does not keep model a's function.
        TypeError: a model that is no module, or batches of the wrong kind.
        ValueError: models of different shapes, a spec with owned groups or with others than permutations, layers of
            which it is not known how they use their units, tied or computed weights, a group whose units show up
            nowhere, an option out of range, or an `up_to` that is no boundary; the message says why.
    """
    for argument, given in (("model_a", model_a), ("model_b", model_b)):
        check_type(argument, given, nn.Module, "a torch.nn.Module (activations cannot be had from a state dict)")
    for name, share in (("again", again), ("within", within)):
        if not 0 <= check_finite(name, share) <= 1:
            raise ValueError(f"{name} must be in 0..1, got {share}")
    model_a, model_b = unwrapped("model_a", model_a), unwrapped("model_b", model_b)
    states = [tensors_of("model_a", model_a), tensors_of("model_b", model_b)]
    states[1] = check_same_tensors("model_b", states[1], "model_a", states[0])
    batches = check_batches("batches", batches)
    check_forward(forward)
    chosen = spec_of(model_a, spec, example_inputs=example_inputs, batches=batches, forward=forward)
    chosen.check_only_permutes("zip_models")
    spec = chosen.bind(model_a)
    for argument, state in zip(("model_a", "model_b"), states, strict=True):
        check_numbers(argument, state, spec.axes)
    sums = _summed_axes(model_a, states[0], spec)
    ensure_verified("zip_models", model_a, spec, batches=batches, forward=forward)

    calls = Calls(model_a, forward)
    first = next(iter(calls.read("batches", batches)), None)
    if first is None:
        raise ValueError("batches must hold one example at least, got none")
    boundary = None if up_to is None else _Boundary(model_a, up_to, spec, calls, first)
    names = list(states[0]) if boundary is None else boundary.tensors
    groups = {name for tensor in names for axis in spec.axes.get(tensor, ()) for name in axis.groups}
    place = None if device is None else torch.device(device)
    blocks = {}
    for i, j in ((0, 0), (0, 1), (1, 1)):
        pair = (model_a, model_b)
        blocks[i, j] = activation_gains(
            pair[i], pair[j], batches, spec, watch=watch, device=place, progress=progress, forward=forward
        )
    clusters = {name: _clusters(name, spec, blocks, again, within) for name in spec.groups if name in groups}
    merged = {name: _merged(spec, name, [state[name] for state in states], clusters, sums) for name in names}
    trunk = copied(model_a).eval()
    load_tensors(trunk, merged)
    model: nn.Module = trunk
    if boundary is not None:
        # Both where the trunk is.
        heads = [copied(model_a).eval(), copied(model_b).eval().to(device_of(model_a))]
        heads_of(heads, boundary.trunk, boundary.up_to, [boundary.gathered(clusters, k) for k in (0, 1)])
        without(trunk, {name: nn.Identity() for name in boundary.behind})
        model = Zipped(trunk, heads, boundary.up_to, boundary.trunk).eval()
    return ZipResult(model, {name: torch.from_numpy(of.reshape(2, -1)) for name, of in clusters.items()})


def _clusters(
    name: str, spec: PermutationSpec, blocks: Mapping[tuple[int, int], Mapping[Any, Any]], again: float, within: float
) -> NDArray[np.int64]:
    if name not in blocks[0, 1]:
        raise ValueError(f"no operation shows the units of group {name!r} alone, so that its activations cannot be had")
    across = blocks[0, 1][name]
    every = np.block([[blocks[0, 0][name], across], [across.T, blocks[1, 1][name]]])
    return clusters_of(every, spec.sizes[name], again=again, within=within)


def _summed_axes(model: nn.Module, state: Mapping[str, Tensor], spec: PermutationSpec) -> set[tuple[str, int]]:
    """(tensor, axis) that a layer sums over, where merged units stand for several; on all others they are made."""
    owned = next((group.name for group in spec.groups.values() if group.owner is not None), None)
    if owned is not None:
        raise ValueError(f"spec must have groups that nothing owns, but {owned!r} is owned: freeze or pin such groups")
    computed = next(iter(derived_weights(model, state)), None)
    if computed is not None:
        raise ValueError(f"model_a must have weights of its own, but {computed.name!r} is {computed.kind}: remove that")
    places = places_of(model, spec)
    sums = {(place.parameter, place.axis) for place in places if place.side == "input"}
    modules = dict(model.named_modules())
    uses: dict[Hashable, str] = {}
    for name, axes in spec.axes.items():
        if all(axis.is_fixed for axis in axes):
            continue
        layer = modules.get(name.rpartition(".")[0])
        if not isinstance(layer, KNOWN):
            raise ValueError(
                f"model_a must be of layers of which it is known how they use their units, but {name!r} is of "
                f"{type(layer).__name__}"
            )
        other = uses.setdefault(tensor_identity(state[name]), name)
        if other != name:
            raise ValueError(f"model_a must have weights of its own, but {other!r} and {name!r} are tied: untie them")
    return sums


def _merged(
    spec: PermutationSpec,
    name: str,
    pair: list[Tensor],
    clusters: Mapping[str, NDArray[np.int64]],
    sums: Collection[tuple[str, int]],
) -> Tensor:
    """M_out diag(W_a, W_b) S_in of one tensor."""
    if pair[0].dtype not in FLOATS:
        return pair[0]
    axes = spec.axes.get(name, ())
    moving = [k for k, axis in enumerate(axes) if not axis.is_fixed]
    inputs = [k for k in moving if (name, k) in sums]
    outputs = [k for k in moving if k not in inputs]
    total = torch.zeros_like(pair[0], dtype=accumulate_dtype(pair[0].dtype))
    for model, tensor in enumerate(pair):
        wide = tensor.to(total)
        used = {group: clusters[group] for k in moving for group in axes[k].groups}
        carries, means = _matrices(spec, used, model, wide)
        part = mixed(spec, name, wide, carries, inputs) if inputs else wide
        # Units that are no group's are the same in both models: their means are halves.
        total += mixed(spec, name, part, means, outputs) if outputs else part / 2
    return total.to(pair[0].dtype)


def _matrices(
    spec: PermutationSpec, clusters: Mapping[str, NDArray[np.int64]], model: int, like: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For every group S^T and M = D^-1 S^T of one model's units: [1, clusters, units]."""
    carries, means = {}, {}
    for name, labels in clusters.items():
        size = spec.sizes[name]
        mine = torch.from_numpy(labels.reshape(2, size)[model])
        sizes = torch.from_numpy(np.bincount(labels, minlength=size)).to(like)
        carry = nn.functional.one_hot(mine, size).T.to(like)
        carries[name], means[name] = carry[None], (carry / sizes[:, None])[None]
    return carries, means


class _Boundary:
    """The module up to which two models are merged, and which modules run before and behind it.

    Attributes:
        trunk: names of modules that have run when the boundary's output is there, without those inside others.
        behind: of modules that run after that alone, likewise.
        tensors: names of the trunk's tensors in the state dict.
    """

    def __init__(self, model: nn.Module, up_to: str, spec: PermutationSpec, calls: Calls, batch: Batch) -> None:
        modules = {name: part for name, part in model.named_modules() if name}
        if up_to not in modules:
            raise ValueError(f"up_to must name a module of the models, got {up_to!r}")
        self.up_to, self._model, self._calls, self._batch = up_to, model, calls, batch
        self.output, before, during, after = self._watched(modules)
        done = before - during - after
        behind = after - before - during
        self.trunk = [name for name in modules if name in done and not _inside(name, done)]
        self.behind = [name for name in modules if name in behind and not _inside(name, behind)]
        self.tensors = []
        for name in tensors_of("model", model):
            owner = name.rpartition(".")[0]
            if owner in done:
                self.tensors.append(name)
            elif owner not in behind:
                raise ValueError(
                    f"up_to must part the model, but {name!r} belongs to a module that does not run before or behind "
                    f"{up_to!r} alone"
                )
        self._check_parts()
        self.dim, self.group = self._units(spec)

    def _watched(self, modules: Mapping[str, nn.Module]) -> tuple[Tensor, set[str], set[str], set[str]]:
        """The boundary's output, and the modules that have ended before it is there, began before, and begin after."""
        found: list[Any] = []
        ended: set[str] = set()
        open_: set[str] = set()
        after: set[str] = set()
        handles = []

        def begin(name: str) -> Any:
            return lambda *_: (after if found else open_).add(name)

        def end(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if name == self.up_to:
                    # What comes next may write to it in place.
                    found.append(output.detach().clone() if isinstance(output, Tensor) else output)
                if not found or name == self.up_to:
                    open_.discard(name)
                    ended.add(name)

            return hook

        try:
            for name, part in modules.items():
                handles += [part.register_forward_pre_hook(begin(name)), part.register_forward_hook(end(name))]
            with in_eval(self._model):
                run(self._model, self._calls, self._batch)
        finally:
            for handle in handles:
                handle.remove()
        if len(found) != 1 or not isinstance(found[0], Tensor):
            got = f"{len(found)} times" if len(found) != 1 else f"and gives a {type(found[0]).__name__}"
            raise ValueError(
                f"up_to must be a module that runs once and gives one tensor, but {self.up_to!r} runs {got}"
            )
        return found[0], ended, open_, after

    def _outputs(self, model: nn.Module, replaced: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """The tensors that a model gives, and the boundary's output, in whose place another may be put."""
        seen: list[Tensor] = []

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            seen.append(output.detach().clone())
            return None if replaced is None else replaced.clone()

        handle = model.get_submodule(self.up_to).register_forward_hook(hook)
        try:
            with in_eval(model), torch.no_grad():
                given = self._calls.outputs(model, self._batch)
        finally:
            handle.remove()
        return [leaf.clone() for leaf in leaves_in(given) if isinstance(leaf, Tensor)], seen[0]

    def _check_parts(self) -> None:
        """ValueError where something behind the boundary depends on the trunk by another way."""
        other = copied(self._model)
        generator = torch.Generator().manual_seed(0)
        state = tensors_of("model", other)
        shaken = {
            n: t + torch.rand(t.shape, generator=generator).to(t)
            for n, t in state.items()
            if n in self.tensors and t.dtype in FLOATS
        }
        load_tensors(other, shaken)
        here, there = (self._outputs(model, self.output)[0] for model in (self._model, other))
        if not all(torch.allclose(x, y, equal_nan=True) for x, y in zip(here, there, strict=True)):
            raise ValueError(
                f"up_to must part the model, but what is behind {self.up_to!r} has other ways to the inputs"
            )

    def _units(self, spec: PermutationSpec) -> tuple[int, str | None]:
        """The dimension of the boundary's output that runs over a group's units, and the group; None: none does."""
        choice = Permutations.random(spec, 0)
        moved = self._outputs(choice.apply(self._model), None)[1]
        close = TOLERANCE * float(self.output.abs().max())
        if bool(((moved - self.output).abs() <= close).all()):
            return 0, None
        for dim in range(1, self.output.ndim):
            for name in spec.groups:
                size, entries = spec.sizes[name], self.output.shape[dim]
                if entries % size == 0:
                    index = _spread(choice[name], entries // size).to(self.output.device)
                    if bool(((moved - self.output.index_select(dim, index)).abs() <= close).all()):
                        return dim, name
        raise ValueError(f"up_to must give the units of one group along one dimension, but {self.up_to!r} does not")

    def gathered(self, clusters: Mapping[str, NDArray[np.int64]], model: int) -> nn.Module | None:
        """What carries the boundary's output to the units of one model."""
        if self.group is None:
            return None
        labels = torch.from_numpy(clusters[self.group].reshape(2, -1)[model].copy())
        return Gathered(self.dim, _spread(labels, self.output.shape[self.dim] // len(labels)).to(self.output.device))


def _inside(name: str, names: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:k]) in names for k in range(1, len(parts)))


def _spread(units: Tensor, inner: int) -> Tensor:
    """Indices of entries from those of units, each of which has so many in a run."""
    return (units[:, None] * inner + torch.arange(inner)).reshape(-1)
