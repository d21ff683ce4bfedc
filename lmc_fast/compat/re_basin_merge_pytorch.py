"""The names of ``matching/weight_matching.py`` in re-basin-merge-pytorch (MasanoriYamada/re-basin-merge-pytorch).

That is the code of Yamada et al., "Toward data efficient model merging between different datasets without performance
degradation"; it is under NTT's licence for evaluation, and nothing of its text is here.
``from lmc_fast.compat.re_basin_merge_pytorch import weight_matching`` in place of
``from matching.weight_matching import ...``.

The same: names, call forms, the pair (permutations, metrics) that the searches return, and what is maximised.
Different: the search is this package's; permutations are int64, not floats, and go where the parameters are; running
statistics move with their units in every model and never count; a batch counter that a spec gives an axis stays as it
is. Metrics have an entry for the start and one for each sweep, where the original has one for each assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._checks import check_finite, check_int, check_type
from .._modes import neutral
from .arrays import tensor_of
from .identities import (
    IdentityWithParam,
    add_identity_shortcut_recursive,
    add_identity_to_net,
    remove_identity_from_net,
    remove_identity_shortcut_recursive,
)
from .interface import Mover
from .layers import batch_norm, conv, dense, norm, vgg_places
from .searching import Found, Params, Perm, distances, find
from .specs import Axes, PermutationSpec, counted, entry, is_counter, permutation_spec_from_axes_to_perm
from .statistics import StoreBN, is_statistic

__all__ = [
    "IdentityWithParam",
    "PermutationSpec",
    "StoreBN",
    "add_identity_shortcut_recursive",
    "add_identity_to_net",
    "apply_permutation",
    "cnn_permutation_spec",
    "flat_weight_matching",
    "flat_weight_matching_v2",
    "get_permuted_param",
    "mlp_permutation_spec",
    "permutation_spec_from_axes_to_perm",
    "remove_identity_from_net",
    "remove_identity_shortcut_recursive",
    "resnet20_i_permutation_spec",
    "resnet20_permutation_spec",
    "resnet50_permutation_spec",
    "vgg1_16_permutation_spec",
    "vgg11_permutation_spec",
    "vgg16_permutation_spec",
    "weight_matching",
]

Metrics = dict[str, list[float]]


def get_permuted_param(ps: Any, perm: Perm, k: str, params: Params, except_axis: int | None = None) -> Any:
    """As `git_re_basin.get_permuted_param`; a Linear may read flattened maps, and goes with their channels."""
    move = Mover(ps, perm, flattened=True)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return move(k, entry("params", params, k), except_axis)


def apply_permutation(ps: Any, perm: Perm, params: Params) -> dict[str, Any]:
    """A new dict of all `params`, permuted: `get_permuted_param` for each, with what that raises."""
    move = Mover(ps, perm, flattened=True)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return {k: move(k, w) for k, w in params.items()}


@neutral
def weight_matching(
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = 300,
    init_perm: Perm | None = None,
    print_flg: bool = True,
) -> tuple[Perm, Metrics]:
    """Find permutations of `params_b` that bring it closest to `params_a`, with `lmc_fast.weight_matching`.

    Args:
        ps: the spec, of whatever class.
        params_a, params_b: state dicts, read and never changed.
        max_iter: end a search after so many sweeps.
        init_perm: where to start, not changed; None: from the identity and outwards from the fixed axes, and the
            better end is returned.
        print_flg: a line for every sweep.

    Returns:
        For every permutation int64 indices where the parameters are; and metrics: ``step``, from 0, and ``l2_dist``,
        the distance over all parameters but for statistics and the identities of shortcuts, divided by how many
        numbers these are.

    Raises:
        KeyError: a parameter of the spec that `params_a` or `params_b` lacks.
        TypeError, ValueError: as `git_re_basin.weight_matching`.
    """
    found = _found(ps, params_a, params_b, max_iter, init_perm, print_flg)
    if found.match is None:
        return {}, {"step": [], "l2_dist": []}
    count, ends = _distances(ps, found, params_a, params_b)
    # What does not move is as far apart all along.
    still = ends[1] ** 2 * count**2 - found.match.l2_after**2
    between = [max(0.0, d**2 + still) ** 0.5 / count for d in distances(found.match)[1:-1]]
    l2 = [ends[0], *between, ends[1]]
    return _placed(found, params_a), {"step": [float(i) for i in range(len(l2))], "l2_dist": l2}


@neutral
def flat_weight_matching(
    ps: Any,
    params_a: Params,
    params_b: Params,
    grad_a: Params,
    grad_b: Params,
    lam: float = 1.0,
    max_iter: int = 300,
    init_perm: Perm | None = None,
    print_flg: bool = True,
) -> tuple[Perm, Metrics]:
    """As `weight_matching`, and the way from model a to model b is to be flat in model b's loss.

    Maximises lam <a, pi(b)> - (1 - lam) <a, pi(grad_b)>: since gradients move with their weights, that is the matching
    of a to lam b - (1 - lam) grad_b.

    Args:
        grad_a, grad_b: gradients of the models' losses under the parameters' names. Of model a's nothing is used.
        lam: 1 for `weight_matching`'s objective.
        The rest is as of `weight_matching`.

    Returns:
        Permutations as of `weight_matching`; and metrics before and after: ``step``, ``l2_dist``, and ``flatness``,
        <pi(grad_b), a - pi(b)>.
    """
    lam = check_finite("lam", lam)
    check_type("grad_a", grad_a, Mapping, "a dict from names to tensors or arrays")

    def target(name: str) -> Tensor:
        b, grad = _both("params_b", params_b, "grad_b", grad_b, name)
        return lam * b - (1 - lam) * grad

    blend = {name: target(name) for name in _moved_names(ps)}
    found = _found(ps, params_a, {**params_b, **blend}, max_iter, init_perm, print_flg)
    return _placed(found, params_a), _flatness(ps, found, params_a, params_b, grad_b)


@neutral
def flat_weight_matching_v2(
    ps: Any,
    params_a: Params,
    params_b: Params,
    grad_a: Params,
    grad_b: Params,
    lam: float = 1.0,
    max_iter: int = 300,
    init_perm: Perm | None = None,
    print_flg: bool = True,
) -> tuple[Perm, Metrics]:
    """As `flat_weight_matching`, in model a's loss: maximises 2 lam <a, pi(b)> - (1 - lam) / 2 <grad_a, pi(b)>.

    That is the matching of 2 lam a - (1 - lam) / 2 grad_a to b. The identities of shortcuts do not count.
    """
    lam = check_finite("lam", lam)

    def source(name: str) -> Tensor:
        a, grad = _both("params_a", params_a, "grad_a", grad_a, name)
        return 2 * lam * a - (1 - lam) / 2 * grad

    names = [name for name in _moved_names(ps) if not _is_identity(name)]
    blend = {name: source(name) for name in names}
    found = _found(ps, {**params_a, **blend}, params_b, max_iter, init_perm, print_flg, leave_out=_is_identity)
    return _placed(found, params_a), _flatness(ps, found, params_a, params_b, grad_b)


def mlp_permutation_spec(num_hidden_layers: int, bias_flg: bool = True) -> PermutationSpec:
    """``layer0`` to ``layer{num_hidden_layers}``, one permutation ``P_{i}`` for the outputs of each but the last."""
    check_int("num_hidden_layers", num_hidden_layers, 1)
    check_type("bias_flg", bias_flg, bool, "a bool")
    units = [None, *(f"P_{i}" for i in range(num_hidden_layers)), None]
    axes: Axes = {}
    for i in range(num_hidden_layers + 1):
        axes |= dense(f"layer{i}", units[i], units[i + 1], bias=bias_flg)
    return permutation_spec_from_axes_to_perm(axes)


def cnn_permutation_spec() -> PermutationSpec:
    """``conv1``, ``conv2``, ``fc1``, which reads flattened maps, ``fc2`` and ``fc3``.

    The original names neither the convolutions' biases, though its model has them.
    """
    axes = {**conv("conv1", None, "P_bg0", bias=True), **conv("conv2", "P_bg0", "P_bg1", bias=True)}
    axes |= {**dense("fc1", "P_bg1", "P_bg2"), **dense("fc2", "P_bg2", "P_bg3"), **dense("fc3", "P_bg3", None)}
    return permutation_spec_from_axes_to_perm(axes)


def resnet20_permutation_spec() -> PermutationSpec:
    """Three stages of three basic blocks with BatchNorm, ``layer{i}.{j}``; one order of the stream for each stage."""
    return _resnet20(own_streams=False)


def resnet20_i_permutation_spec() -> PermutationSpec:
    """The ResNet20 that `add_identity_to_net` makes: the stream has an order of its own behind every block."""
    return _resnet20(own_streams=True)


def resnet50_permutation_spec() -> PermutationSpec:
    """Three stages of eight basic blocks in pre-activation order. Not the bottleneck ResNet50."""
    axes: Axes = {**conv("conv1", None, "P_bg0"), **norm("bn1", "P_bg0")}
    stream = "P_bg0"
    for stage in range(1, 4):
        for block in range(8):
            name, behind = f"layer{stage}.{block}", f"P_bg{stage}"
            inner = f"P_{name}_inner"
            axes |= {**norm(f"{name}.bn1", stream), **conv(f"{name}.conv1", stream, inner)}
            axes |= {**norm(f"{name}.bn2", inner), **conv(f"{name}.conv2", inner, behind)}
            if behind != stream:
                axes |= {**conv(f"{name}.shortcut.0", stream, behind), **norm(f"{name}.shortcut.1", behind)}
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **dense("linear", stream, None)})


def vgg11_permutation_spec() -> PermutationSpec:
    """VGG11 with BatchNorm: ``features`` of 8 convolutions and one Linear ``classifier``, whatever maps it reads."""
    return _vgg(11, [])


def vgg16_permutation_spec() -> PermutationSpec:
    """VGG16 with BatchNorm and three Linears: ``classifier0``, ``classifier1`` and ``classifier``."""
    return _vgg(16, ["classifier0", "classifier1"])


def vgg1_16_permutation_spec() -> PermutationSpec:
    """VGG16 with BatchNorm and one Linear ``classifier``."""
    return _vgg(16, [])


def _resnet20(*, own_streams: bool) -> PermutationSpec:
    axes: Axes = {**conv("conv1", None, "P_bg0"), **batch_norm("bn1", "P_bg0")}
    stream = "P_bg0"
    for stage in range(1, 4):
        for block in range(3):
            name = f"layer{stage}.{block}"
            widens = stage > 1 and block == 0
            inner = f"P_{name}_inner1" if own_streams else f"P_{name}_inner"
            behind = f"P_bg{stage}.{block}" if own_streams else stream if stage == 1 else f"P_bg{stage}.0"
            axes |= {**conv(f"{name}.conv1", stream, inner), **batch_norm(f"{name}.bn1", inner)}
            axes |= {**conv(f"{name}.conv2", inner, behind), **batch_norm(f"{name}.bn2", behind)}
            shortcut = f"{name}.shortcut.0" if own_streams else f"{name}.shortcut"
            between = f"P_{name}_inner2" if own_streams else behind
            if widens:
                axes |= {**conv(f"{shortcut}.0", stream, between), **batch_norm(f"{shortcut}.1", between)}
            if own_streams:
                axes[f"{name}.shortcut.1.identity"] = (behind, between if widens else stream)
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **dense("linear", stream, None)})


def _vgg(depth: int, hidden: list[str]) -> PermutationSpec:
    axes: Axes = {}
    before: str | None = None
    for count, i in enumerate(vgg_places(depth, norms=True)):
        units = f"P_Conv_{count}"
        axes |= {**conv(f"features.{i}", before, units, bias=True), **batch_norm(f"features.{i + 1}", units)}
        before = units
    for count, name in enumerate(hidden):
        axes |= dense(name, before, f"P_Dence_{count}")
        before = f"P_Dence_{count}"
    return permutation_spec_from_axes_to_perm({**axes, **dense("classifier", before, None)})


def _is_identity(name: str) -> bool:
    return name.rpartition(".")[2] == "identity"


def _moved_names(ps: Any) -> list[str]:
    return [name for name in counted(ps) if not is_statistic(name)]


def _both(argument: str, params: Params, grads_argument: str, grads: Params, name: str) -> tuple[Tensor, Tensor]:
    """A parameter and its gradient, where the parameter is and in its dtype."""
    check_type(argument, params, Mapping, "a dict from names to tensors or arrays")
    check_type(grads_argument, grads, Mapping, "a dict from names to tensors or arrays")
    w = tensor_of(f"{argument}[{name!r}]", entry(argument, params, name))
    grad = tensor_of(f"{grads_argument}[{name!r}]", entry(grads_argument, grads, name)).to(w)
    if grad.shape != w.shape:
        raise ValueError(
            f"{grads_argument}[{name!r}] must have the shape of the parameter, {tuple(w.shape)}, "
            f"got {tuple(grad.shape)}"
        )
    return w, grad


def _found(
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int,
    init_perm: Perm | None,
    print_flg: bool,
    leave_out: Callable[[str], bool] | None = None,
) -> Found:
    check_type("print_flg", print_flg, bool, "a bool")
    return find(
        ps,
        params_a,
        params_b,
        max_iter=max_iter,
        init_perm=init_perm,
        leave_out=leave_out,
        flattened=True,
        silent=not print_flg,
    )


def _placed(found: Found, params: Params) -> Perm:
    """Indices where the parameters are."""
    device = next((w.device for w in params.values() if isinstance(w, Tensor)), torch.device("cpu"))
    return {p: index.to(device) for p, index in found.perm.items()}


def _compared(params: Params) -> list[str]:
    """Parameters that the metrics are of."""
    return [name for name in params if not (is_statistic(name) or is_counter(name) or _is_identity(name))]


def _distances(ps: Any, found: Found, params_a: Params, params_b: Params) -> tuple[int, list[float]]:
    """How many numbers are compared; and the distance before and after, divided by that."""
    names = _compared(params_a)
    move = Mover(ps, found.perm, keep=True, flattened=True)
    a = {name: tensor_of(f"params_a[{name!r}]", params_a[name]) for name in names}
    b = {name: tensor_of(f"params_b[{name!r}]", entry("params_b", params_b, name)).to(a[name].device) for name in names}
    count = sum(w.numel() for w in a.values())
    squares = [0.0, 0.0]
    for name in names:
        for end, w in enumerate((b[name], move(name, b[name]))):
            squares[end] += float((a[name].double() - w.double()).square().sum())
    return count, [square**0.5 / count for square in squares]


def _flatness(ps: Any, found: Found, params_a: Params, params_b: Params, grad_b: Params) -> Metrics:
    if found.match is None:
        return {"step": [], "l2_dist": [], "flatness": []}
    move = Mover(ps, found.perm, keep=True, flattened=True)
    flatness = [0.0, 0.0]
    for name in _compared(params_a):
        b, grad = _both("params_b", params_b, "grad_b", grad_b, name)
        a = tensor_of(f"params_a[{name!r}]", params_a[name]).to(b)
        for end, (moved_b, moved_grad) in enumerate(((b, grad), (move(name, b), move(name, grad)))):
            flatness[end] += float((moved_grad.double() * (a - moved_b)).sum())
    _, ends = _distances(ps, found, params_a, params_b)
    return {"step": [0.0, 1.0], "l2_dist": ends, "flatness": flatness}
