"""The names of ``search`` in STE-MM (e5-a/STE-MM): matching of two models, of several, and by the loss.

That is the code of Ito et al., "Linear Mode Connectivity between Multiple Models modulo Permutation Symmetries" (ICML
2025); it is under NTT's licence for evaluation, and nothing of its text is here. ``from lmc_fast.compat.ste_mm import
weight_matching, generate_permutation_spec`` in place of ``from search.weight_matching import ...``; there `match_wm`
and `ste` stand in ``search.mult.wm`` and ``search.mult.ste``.

The same: names, call forms, and that a matcher goes on from where it was left when it is fitted again. Different: specs
are found by `lmc_fast.derive_spec`, which knows norms, flattened maps and heads; `weight_matching` and
`weight_matching_uv` are one search, this package's, which keeps its duals within a fit; permutations are int64, not
floats; running statistics move with their units and never count; nothing is random that no seed was given for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import matching
from .._backend import check_device
from .._checks import check_int, check_type, fail_type
from .._copies import copied
from .._files import write_aside
from .._models import load_tensors, tensors_of
from .._modes import neutral
from .interface import Mover
from .searching import Params, Perm, distances, find
from .specs import (
    DerivedSpec,
    PermutationSpec,
    derived_spec,
    entry,
    permutation_spec_from_axes_to_perm,
    random_inputs,
)
from .statistics import StoreBN

__all__ = [
    "PermutationSpec",
    "StoreBN",
    "apply_permutation",
    "generate_permutation_spec",
    "get_permuted_param",
    "match_wm",
    "permutation_spec_from_axes_to_perm",
    "ste",
    "weight_matching",
    "weight_matching_uv",
]


def generate_permutation_spec(
    model: nn.Module, input_shape: Sequence[int], remove_nodes: Sequence[str] = ()
) -> DerivedSpec:
    """What may be permuted in `model`, found in the graph of its forward pass.

    Args:
        input_shape: of an example input, with the batch.
        remove_nodes: names of permutations that the spec is to be without; numbers of nodes of the original's graphs
            mean nothing here.

    Raises:
        TypeError: a number in `remove_nodes`, or another argument of the wrong kind.
        ValueError: as `lmc_fast.derive_spec`.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    for name in remove_nodes:
        check_type("remove_nodes", name, str, "names of permutations")
    inputs = random_inputs("input_shape", input_shape, model)
    return derived_spec(model, inputs, leave_out=remove_nodes, argument="remove_nodes")


def get_permuted_param(ps: Any, perm: Perm, k: str, params: Params, except_axis: int | None = None) -> Any:
    """As `git_re_basin.get_permuted_param`; what the spec does not name stays as it is."""
    move = Mover(ps, perm, keep=True)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return move(k, entry("params", params, k), except_axis)


def apply_permutation(ps: Any, perm: Perm, params: Params) -> dict[str, Any]:
    """A new dict of all `params`, permuted: `get_permuted_param` for each, with what that raises."""
    move = Mover(ps, perm, keep=True)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return {k: move(k, w) for k, w in params.items()}


class weight_matching:
    """Permutations that lay one state dict over another; fitted again, it goes on from those it has.

    Args:
        ps: the spec, of whatever class.
        verbose: a line for every sweep.

    Attributes:
        perm: for every permutation int64 indices where the parameters are; None before the first fit.
        metrics: of the last fit: ``l2_dist``, the distance between what the spec moves, after every sweep.
    """

    def __init__(self, ps: Any, verbose: bool = False) -> None:
        check_type("verbose", verbose, bool, "a bool")
        self.ps = ps
        self.verbose = verbose
        self.perm: Perm | None = None
        self.metrics: dict[str, list[float]] = {}

    @neutral
    def fit(self, params_a: Params, params_b: Params, max_iter: int = 300) -> None:
        """Find permutations of `params_b` that bring it closest to `params_a`, with `lmc_fast.weight_matching`.

        Args:
            params_a, params_b: state dicts, read and never changed.
            max_iter: end after so many sweeps.

        Raises:
            KeyError, TypeError, ValueError: as `git_re_basin.weight_matching`.
        """
        found = find(self.ps, params_a, params_b, max_iter=max_iter, init_perm=self.perm, silent=not self.verbose)
        device = next((w.device for w in params_a.values() if isinstance(w, Tensor)), torch.device("cpu"))
        self.perm = {p: index.to(device) for p, index in found.perm.items()}
        self.metrics = {} if found.match is None else {"l2_dist": distances(found.match)[1:]}

    def transform(self, model: nn.Module) -> None:
        """Permute `model`, in place, with what was found.

        Raises:
            ValueError: nothing was fitted or loaded before.
        """
        check_type("model", model, nn.Module, "a torch.nn.Module")
        load_tensors(model, apply_permutation(self.ps, self._known(), tensors_of("model", model)))

    def save(self, filename: str | PathLike[str]) -> None:
        """Write the permutations as a torch file, aside and then renamed; one that is there is replaced."""
        perm = dict(self._known())
        write_aside(Path(fspath(filename)), lambda part: torch.save(perm, part))

    def load(self, arg: str | PathLike[str] | Mapping[str, Any]) -> None:
        """Take permutations from a file that `save` wrote, or from a dict; floats that are whole numbers will do."""
        if isinstance(arg, (str, PathLike)):
            arg = torch.load(Path(fspath(arg)), map_location="cpu", weights_only=True)
        if not isinstance(arg, Mapping):
            fail_type("arg", "a file, or a dict from names to indices", arg)
        self.perm = {p: torch.as_tensor(index).to("cpu", torch.int64) for p, index in arg.items()}

    def append_metric(self, name: str, value: float) -> None:
        """Put a value at the end of a metric of this name."""
        self.metrics.setdefault(name, []).append(value)

    def _known(self) -> Perm:
        if self.perm is None:
            raise ValueError("fit or load must come first: there are no permutations yet")
        return self.perm


class weight_matching_uv(weight_matching):
    """The same: every search here keeps the duals of its assignments."""


@neutral
def match_wm(
    nets: Sequence[nn.Module], input_shape: Sequence[int], fast_wm: bool = False, verbose: bool = True
) -> tuple[list[nn.Module], list[weight_matching]]:
    """Lay several networks over each other: each in turn over the mean of the others, until nothing moves.

    Args:
        nets: two at least, of one architecture; none is changed.
        input_shape: of one example, without the batch.
        fast_wm: not needed: all searches are fast.
        verbose: a bar.

    Returns:
        The permuted networks, and for each a matcher with its permutations. The first network keeps its units where
        they are, which the original's need not.
    """
    nets = _checked_nets("nets", nets)
    ps = generate_permutation_spec(nets[0], [1, *input_shape])
    many = matching.match_many(nets, ps.whole, method="merge_many", progress=bool(verbose))
    return _matched(ps, nets, [dict(choice) for choice in many.permutations], fast_wm)


@neutral
def ste(
    model_a: nn.Module,
    models: Sequence[nn.Module],
    train_loader: Iterable[Any],
    test_loader: Iterable[Any] | None,
    learning_rate: float,
    num_epochs: int,
    mid: bool,
    device: torch.device | str | None,
    input_shape: Sequence[int],
    fast_wm: bool = True,
) -> tuple[list[nn.Module], list[weight_matching]]:
    """Learn permutations of `models` by the loss of mixtures with `model_a`: STE-MM.

    Args:
        model_a: stays as it is.
        models: one at least; none is changed.
        train_loader: (inputs, classes) batches; one step each.
        test_loader: not needed.
        learning_rate, num_epochs: of the steps.
        mid: equal shares of all models in every step; otherwise random ones.
        device: where to compute.
        input_shape: of one example, without the batch.
        fast_wm: not needed.

    Returns:
        [`model_a`, permuted models...], and for each of `models` a matcher with its permutations.
    """
    check_type("mid", mid, bool, "a bool")
    check_int("num_epochs", num_epochs, 1)
    where = check_device("device", device)
    rest = _checked_nets("models", models, least=1)
    check_type("model_a", model_a, nn.Module, "a torch.nn.Module")
    ps = generate_permutation_spec(model_a, [1, *input_shape])
    many = matching.match_many(
        [model_a, *rest],
        ps.whole,
        method="ste_mm",
        init="identity",
        batches=train_loader,
        epochs=num_epochs,
        learning_rate=learning_rate,
        mixing="midpoint" if mid else "random",
        device=where,
    )
    moved, matchers = _matched(ps, rest, [dict(choice) for choice in many.permutations[1:]], fast_wm)
    return [model_a, *moved], matchers


def _checked_nets(argument: str, nets: object, least: int = 2) -> list[nn.Module]:
    if isinstance(nets, nn.Module) or not isinstance(nets, Iterable):
        fail_type(argument, "a list of torch.nn.Modules", nets)
    found = list(nets)
    for i, net in enumerate(found):
        check_type(f"{argument}[{i}]", net, nn.Module, "a torch.nn.Module")
    if len(found) < least:
        raise ValueError(f"{argument} must hold {least} at least, got {len(found)}")
    return found


def _matched(
    ps: DerivedSpec, nets: Sequence[nn.Module], perms: Sequence[Perm], fast_wm: bool
) -> tuple[list[nn.Module], list[weight_matching]]:
    moved, matchers = [], []
    for net, perm in zip(nets, perms, strict=True):
        matcher = (weight_matching_uv if fast_wm else weight_matching)(ps)
        matcher.perm = perm
        twin = copied(net)
        matcher.transform(twin)
        moved.append(twin)
        matchers.append(matcher)
    return moved, matchers
