"""LoRA adapters, as PEFT keeps them: low-rank factors of what a fine-tune adds to a weight.

    delta W = B A    (A [rank, inputs], B [outputs, rank])

so that pi moves A along its inputs and B along its outputs alone, and nothing need be multiplied out (Hu et al.,
"LoRA", ICLR 2022).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.permuted_lerp import permuted_lerp
from ..symmetry import PermutationSpec
from ..symmetry.groups import axis_size
from ..symmetry.transforms import Choice, moved_along

__all__ = ["carried_adapter", "is_adapter"]

# PEFT puts the model into two of its own.
PREFIXES = ("base_model.model.", "base_model.")
# Which side of a weight each factor is on: outputs, inputs, or for embeddings entries and features.
FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>[^.]+))??(?:\.(?P<what>weight|bias))?$"
)
# Whole modules that go along: trained as they are, or embeddings that PEFT saves with what it adds to them.
SAVED = re.compile(r"\.(modules_to_save(\.[^.]+)?|base_layer)(?=\.)")


class _Place(NamedTuple):
    """Where a factor belongs: the parameter, and of the factor's dimensions those that run along an axis of it."""

    parameter: str
    axes: dict[int, int]


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these are names of low-rank factors, and not of a model's own tensors."""
    return any(".lora_A" in name or ".lora_embedding_A" in name for name in names)


def carried_adapter(
    adapter: Mapping[str, Tensor],
    choice: Choice,
    base: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    *,
    alpha: float = 1.0,
    fan_in_fan_out: bool = False,
) -> dict[str, Tensor]:
    """An adapter of one model, for another one.

    Args:
        adapter: PEFT's tensors by its names. Whole tensors among them (biases, modules_to_save) become
            new + alpha * pi(tensor - base).
        choice: brings the model that the adapter was made for onto the other one.
        base, new: the two models' tensors by the spec's names; those of whole tensors in the adapter are read.
        alpha: how much of the adapter.
        fan_in_fan_out: of PEFT's configuration: weights lie as [inputs, outputs].

    Returns:
        The tensors by the same names, in their dtypes.

    Raises:
        ValueError: an entry that belongs to no parameter of the spec, or is of another shape; the message names it.
    """
    spec = choice.spec
    carried: dict[str, Tensor] = {}
    for name, tensor in adapter.items():
        found = FACTOR.match(name)
        if found is None:
            carried[name] = _whole(name, tensor, choice, base, new, alpha)
            continue
        if found["what"] == "bias":
            raise ValueError(f"adapter entry {name!r} is a bias of a low-rank factor, which is not carried over")
        place = _place(name, found["kind"], _named(name, found["module"], spec, "weight"), spec, fan_in_fan_out)
        moved = tensor
        for dim, axis in place.axes.items():
            size = axis_size(spec.axes[place.parameter][axis].segments, spec.sizes)
            if size != tensor.shape[dim]:
                raise ValueError(
                    f"adapter entry {name!r} must have {size} entries along dimension {dim}, as axis {axis} of "
                    f"{place.parameter!r} has, got {tuple(tensor.shape)}"
                )
            moved = moved_along(choice, place.parameter, axis, moved, dim)
        scales = alpha != 1.0 and found["kind"] in ("lora_B", "lora_embedding_B")
        carried[name] = moved * alpha if scales else moved.clone()
    if alpha != 1.0 and any("lora_magnitude_vector" in name for name in adapter):
        raise ValueError("alpha must be 1 for an adapter with magnitudes (DoRA): they are no part of a difference")
    return carried


def _place(name: str, kind: str, parameter: str, spec: PermutationSpec, fan_in_fan_out: bool) -> _Place:
    axes = spec.axes[parameter]
    if any(axis.dims != 1 for axis in axes) or len(axes) < 2:
        raise ValueError(f"adapter entry {name!r} belongs to {parameter!r}, whose axes are not those of a matrix")
    outputs, inputs = (1, 0) if fan_in_fan_out else (0, 1)
    # What an embedding adds is (B A)^T: entries along A, features along B.
    sides = {
        "lora_A": {1: inputs},
        "lora_B": {0: outputs},
        "lora_embedding_A": {1: 0},
        "lora_embedding_B": {0: 1},
        "lora_magnitude_vector": {0: outputs},
    }
    return _Place(parameter, sides[kind])


def _whole(
    name: str,
    tensor: Tensor,
    choice: Choice,
    base: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    alpha: float,
) -> Tensor:
    """A tensor that was trained as it is, and saved beside the factors."""
    module, _, what = SAVED.sub("", name).rpartition(".")
    parameter = _named(name, module, choice.spec, what)
    old = base[parameter]
    if old.shape != tensor.shape:
        raise ValueError(
            f"adapter entry {name!r} must be {tuple(old.shape)}, as {parameter!r} is, got {tuple(tensor.shape)}"
        )
    dtype = torch.promote_types(torch.float32, tensor.dtype)
    parts = [new[parameter].to(dtype), *(choice.apply_to(parameter, x.to(dtype)) for x in (tensor, old))]
    summed = permuted_lerp(parts, [1.0, alpha, -alpha], [(None,) * tensor.ndim] * 3)
    return summed.to(tensor.dtype)


def _named(entry: str, module: str, spec: PermutationSpec, what: str) -> str:
    """The parameter that an adapter's module is of; names may differ by what a head or PEFT puts before them."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    wanted = f"{module}.{what}"
    if wanted in spec.axes:
        return wanted
    near = [name for name in spec.axes if name.endswith(f".{wanted}") or wanted.endswith(f".{name}")]
    if len(near) != 1:
        raise ValueError(f"adapter entry {entry!r} belongs to {wanted!r}, which is no parameter of the spec")
    return near[0]
