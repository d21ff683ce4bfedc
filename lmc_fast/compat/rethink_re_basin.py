"""The names of ``source/utils/weight_matching.py`` and ``activation_matching.py`` in rethink-re-basin.

That is the code of Qu and Horvath, "Rethink Model Re-Basin and the Linear Mode Connectivity", at
XingyuQu/rethink-re-basin, which gives no licence; nothing of its text is here. ``from lmc_fast.compat import
rethink_re_basin as wm`` in place of ``import source.utils.weight_matching as wm``, and for ``activation_matching`` too.

The same: names, call forms and what is returned: permuted parameters, and permutations where these are asked for.
Different: the search is this package's, and `tol` is not needed; permutations are int64, not floats; running statistics
move with their units and never count. Activation matching needs no models that record what they compute: it watches
any module of the spec's names, its two types are one (both maximise correlations), and it needs no `print_freq`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import matching
from .._backend import check_device
from .._checks import check_int, check_type
from .._models import tensors_of
from .interface import Mover
from .layers import batch_norm, conv, norm, vgg_places
from .layers import dense as _dense
from .searching import Params, Perm, find
from .specs import Axes, PermutationSpec, engine_spec, entry, permutation_spec_from_axes_to_perm

__all__ = [
    "PermutationSpec",
    "activation_matching",
    "apply_permutation",
    "cifar_resnet_permutation_spec",
    "cifar_vgg_permutation_spec",
    "dense",
    "get_am_perm",
    "get_am_perm_git",
    "get_permutation_spec",
    "get_permuted_param",
    "get_wm_perm",
    "mlp_permutation_spec",
    "permutation_spec_from_axes_to_perm",
    "weight_matching",
]


def dense(name: str, p_in: str | None, p_out: str | None, bias: bool = True) -> Axes:
    """The axes of a Linear."""
    return _dense(name, p_in, p_out, bias=bias)


def mlp_permutation_spec(num_hidden_layers: int, bias: bool = True) -> PermutationSpec:
    """``layer0`` to ``layer{num_hidden_layers}``, one permutation ``P_{i}`` for the outputs of each but the last."""
    check_int("num_hidden_layers", num_hidden_layers, 1)
    units = [None, *(f"P_{i}" for i in range(num_hidden_layers)), None]
    axes: Axes = {}
    for i in range(num_hidden_layers + 1):
        axes |= dense(f"layer{i}", units[i], units[i + 1], bias)
    return permutation_spec_from_axes_to_perm(axes)


def cifar_vgg_permutation_spec(model: str) -> PermutationSpec:
    """``cifar_vgg{11|13|16|19}``, with ``_bn``, ``_ln`` or ``_nobias`` behind it, and a width such as ``_4x``.

    Raises:
        ValueError: another name. GroupNorm (``_gn``) is one: its groups of channels do not come apart, which the
            original's spec overlooks.
    """
    parts = _parts(model)
    kinds = set(parts[2:])
    depth = parts[1].removeprefix("vgg") if parts[0] == "cifar" and len(parts) > 1 else ""
    if depth not in ("11", "13", "16", "19") or not kinds <= {"bn", "ln", "nobias"} or len(kinds) > 1:
        raise ValueError(f"model must be cifar_vgg11, 13, 16 or 19, with _bn, _ln or _nobias or plain, got {model!r}")
    axes: Axes = {}
    before = None
    for i in vgg_places(int(depth), norms=bool(kinds & {"bn", "ln"})):
        units = f"P_Conv_{i}"
        axes |= conv(f"features.{i}", before, units, bias="nobias" not in kinds)
        if "bn" in kinds:
            axes |= batch_norm(f"features.{i + 1}", units)
        elif "ln" in kinds:
            axes |= norm(f"features.{i + 1}", units)
        before = units
    return permutation_spec_from_axes_to_perm({**axes, **dense("classifier.0", before, None)})


def cifar_resnet_permutation_spec(model: str) -> PermutationSpec:
    """``cifar_resnet{depth}``, depth 6 n + 2, with ``plain``, ``fixup``, ``ln`` or ``nobias`` in its name."""
    parts = _parts(model)
    depth = next((int(part[6:]) for part in parts if part.startswith("resnet") and part[6:].isdigit()), 0)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"model must have resnet and a depth of 6 n + 2 in its name, as cifar_resnet20, got {model!r}")
    bare = "plain" in model or "fixup" in model
    bias = "plain" in model and "nobias" not in model

    def normed(name: str, units: str) -> Axes:
        return {} if bare else norm(name, units) if "ln" in model else batch_norm(name, units)

    axes: Axes = {**conv("conv1", None, "P_bg0", bias=bias), **normed("norm1", "P_bg0")}
    stream = "P_bg0"
    for stage in range(3):
        for block in range((depth - 2) // 6):
            name, behind = f"segments.{stage}.{block}", f"P_bg{stage}"
            inner = f"P_{name}_inner"
            axes |= {**conv(f"{name}.conv1", stream, inner, bias=bias), **normed(f"{name}.norm1", inner)}
            axes |= {**conv(f"{name}.conv2", inner, behind, bias=bias), **normed(f"{name}.norm2", behind)}
            if behind != stream:
                axes |= {**conv(f"{name}.shortcut.0", stream, behind), **normed(f"{name}.shortcut.1", behind)}
            stream = behind
    return permutation_spec_from_axes_to_perm({**axes, **dense("fc", stream, None, "nobias" not in model)})


def get_permutation_spec(model: str) -> PermutationSpec:
    """The spec of a model by its name; ValueError for a name that is not known."""
    check_type("model", model, str, "a model's name")
    if model == "simple_mlp":
        return mlp_permutation_spec(1, bias=False)
    if model == "mlp":
        return mlp_permutation_spec(2)
    if model.startswith("cifar_vgg"):
        return cifar_vgg_permutation_spec(model)
    if "cifar_resnet" in model:
        return cifar_resnet_permutation_spec(model)
    raise ValueError(f"model must be simple_mlp, mlp, cifar_vgg... or cifar_resnet..., got {model!r}")


def get_permuted_param(
    ps: Any, perm: Perm, k: str, params: Params, except_axis: int | None = None, device: Any = None
) -> Any:
    """As `git_re_basin.get_permuted_param`; what the spec does not name stays, and a Linear may read flattened maps."""
    move = _mover(ps, perm)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return move(k, entry("params", params, k), except_axis)


def apply_permutation(ps: Any, perm: Perm, params: Params, device: Any = None) -> dict[str, Any]:
    """A new dict of all `params`, permuted: `get_permuted_param` for each, with what that raises."""
    move = _mover(ps, perm)
    check_type("params", params, Mapping, "a dict from names to tensors or arrays")
    return {k: move(k, w) for k, w in params.items()}


def weight_matching(
    model_name: str,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    device: torch.device | str | None = None,
    return_perm: bool = False,
    tol: float = 1e-12,
) -> tuple[dict[str, Any], Perm | None]:
    """Lay `params_b` over `params_a`: (permuted parameters, permutations if `return_perm`, else None).

    Args:
        model_name: as of `get_permutation_spec`.
        The rest is as of `get_wm_perm`.
    """
    ps = get_permutation_spec(model_name)
    perm = get_wm_perm(ps, params_a, params_b, max_iter, init_perm, device, tol)
    return apply_permutation(ps, perm, params_b), perm if return_perm else None


def get_wm_perm(
    ps: Any,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Perm | None = None,
    device: torch.device | str | None = None,
    tol: float = 1e-12,
) -> Perm:
    """Find permutations of `params_b` that bring it closest to `params_a`, with `lmc_fast.weight_matching`.

    Args:
        ps: the spec, of whatever class.
        params_a, params_b: state dicts, read and never changed.
        max_iter: end a search after so many sweeps.
        init_perm: where to start, not changed; None: from the identity and outwards from the fixed axes, and the
            better end is returned.
        device: where to compute, and where the permutations go; None: the CPU for them.
        tol: not needed: a search ends where rounding does not let it rise.

    Returns:
        For every permutation int64 indices.

    Raises:
        KeyError, TypeError, ValueError: as `git_re_basin.weight_matching`.
    """
    where = check_device("device", device)
    found = find(ps, params_a, params_b, max_iter=max_iter, init_perm=init_perm, device=where, flattened=True)
    return {p: index if where is None else index.to(where) for p, index in found.perm.items()}


def activation_matching(
    model_name: str,
    model_a: nn.Module,
    model_b: nn.Module,
    loader: Iterable[Any],
    print_freq: int = 10,
    device: torch.device | str | None = None,
    return_perm: bool = False,
    pre_relu: bool = False,
    type: str | None = None,
) -> tuple[dict[str, Any], Perm | None]:
    """Lay `model_b` over `model_a` by what they compute: (permuted state dict, permutations if `return_perm`).

    Args:
        type: None or "git", which are the same here.
        The rest is as of `get_am_perm`, with `model_name` as of `get_permutation_spec`.
    """
    if type not in (None, "git"):
        raise ValueError(f"type must be None or 'git', got {type!r}")
    perm = get_am_perm(model_name, model_a, model_b, loader, print_freq, device, pre_relu)
    state = tensors_of("model_b", model_b)
    return apply_permutation(get_permutation_spec(model_name), perm, state), perm if return_perm else None


def get_am_perm(
    model_name: str,
    model_a: nn.Module,
    model_b: nn.Module,
    loader: Iterable[Any],
    print_freq: int = 10,
    device: torch.device | str | None = None,
    pre_relu: bool = False,
) -> Perm:
    """The permutations of `model_b`'s units that correlate most with `model_a`'s, with `lmc_fast.activation_matching`.

    Args:
        model_name: as of `get_permutation_spec`.
        model_a, model_b: modules; their modes stay. All places that show a permutation's units are watched.
        loader: (inputs, targets) batches.
        print_freq: not needed: nothing is printed.
        device: where the permutations go, and where correlations are computed.
        pre_relu: watch in front of the nonlinearity.
    """
    check_type("pre_relu", pre_relu, bool, "a bool")
    where = check_device("device", device)
    ps = get_permutation_spec(model_name)
    state: dict[str, Tensor] = tensors_of("model_a", model_a)
    spec = engine_spec(ps.axes_to_perm, {k: state[k] for k in ps.axes_to_perm if k in state}, flattened=True)
    match = matching.activation_matching(
        model_a, model_b, loader, spec, watch="outputs" if pre_relu else "inputs", device=where
    )
    return {p: match.permutations[p].to(where or "cpu") for p in ps.perm_to_axes}


def get_am_perm_git(
    model_name: str,
    model_a: nn.Module,
    model_b: nn.Module,
    loader: Iterable[Any],
    print_freq: int = 10,
    device: torch.device | str | None = None,
    pre_relu: bool = False,
) -> Perm:
    """As `get_am_perm`: what sets the original's two apart is the order in which they sum."""
    return get_am_perm(model_name, model_a, model_b, loader, print_freq, device, pre_relu)


def _parts(model: object) -> list[str]:
    """A model's name at its underscores, without a width at its end."""
    check_type("model", model, str, "a model's name")
    parts = str(model).split("_")
    return parts[:-1] if parts[-1].endswith("x") else parts


def _mover(ps: Any, perm: Any) -> Mover:
    return Mover(ps, perm, keep=True, flattened=True)
