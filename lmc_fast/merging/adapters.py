"""LoRA adapters, as PEFT keeps them: low-rank factors of what a fine-tune adds to a weight.

    delta W = B A    (A [rank, inputs], B [outputs, rank])

so that pi moves A along its inputs and B along its outputs alone, and nothing need be multiplied out (Hu et al.,
"LoRA", ICLR 2022).

Where norms are folded before units turn, A takes the gain g of the base's norm along, and leaves that of the new
model's, h, behind: A' = A diag(g) Q^T diag(1 / h). Biases of norms, c and d, meet the factors as well: what is missing
then, B' (A c - A' d), becomes the bias of B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.permuted_lerp import permuted_lerp
from ..symmetry import PermutationSpec, PureForm
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
    stored: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """An adapter of one model, for another one.

    Args:
        adapter: PEFT's tensors by its names. Whole tensors among them (biases, modules_to_save) become
            new + alpha * pi(tensor - base).
        choice: brings the model that the adapter was made for onto the other one.
        base, new: the two models' tensors by the spec's names; those of whole tensors in the adapter are read.
        alpha: how much of the adapter.
        fan_in_fan_out: of PEFT's configuration: weights lie as [inputs, outputs].
        stored: the two models as they were before norms were folded, which is how the adapter has them, and how the
            result does; None: base and new are so.

    Returns:
        The tensors by the same names, in their dtypes. Where biases of norms are folded, each low-rank B has a bias
        beside it (PEFT's lora_bias).

    Raises:
        ValueError: an entry that belongs to no parameter of the spec, or is of another shape; with folds, one of which
            too little is known (magnitudes, norms), or a gain of 0 in the new model; the message names it.
    """
    carrying = _Carrying(choice, *((base, new) if stored is None else stored), alpha, is_folding=stored is not None)
    carried: dict[str, Tensor] = {}
    for name, tensor in adapter.items():
        found = FACTOR.match(name)
        if found is None:
            carried[name] = carrying.whole(name, tensor)
            continue
        if found["what"] == "bias" and found["kind"] != "lora_B":
            raise ValueError(f"adapter entry {name!r} is a bias of a low-rank factor, which is not carried over")
        place = _place(
            name, found["kind"], _named(name, found["module"], choice.spec, "weight"), choice, fan_in_fan_out
        )
        carried[name] = carrying.factor(name, tensor, place, scales=found["kind"] in ("lora_B", "lora_embedding_B"))
    if alpha != 1.0 and any("lora_magnitude_vector" in name for name in adapter):
        raise ValueError("alpha must be 1 for an adapter with magnitudes (DoRA): they are no part of a difference")
    return carried | carrying.biases(adapter, carried, fan_in_fan_out)


class _Carrying:
    """What brings an adapter's entries over, one by one.

    Args:
        base, new: the models as the adapter has the one, and is to have the other.
        is_folding: whether the choice is of these with their norms folded.
    """

    def __init__(
        self, choice: Choice, base: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float, *, is_folding: bool
    ) -> None:
        self.choice, self.base, self.new, self.alpha = choice, base, new, alpha
        self.pure = PureForm(choice.spec.folds if is_folding else ())

    def factor(self, name: str, tensor: Tensor, place: _Place, *, scales: bool) -> Tensor:
        """A low-rank factor; `scales`: whether it takes `alpha`."""
        moved, spec = tensor, self.choice.spec
        for dim, axis in place.axes.items():
            size = axis_size(spec.axes[place.parameter][axis].segments, spec.sizes)
            if size != tensor.shape[dim]:
                raise ValueError(
                    f"adapter entry {name!r} must have {size} entries along dimension {dim}, as axis {axis} of "
                    f"{place.parameter!r} has, got {tuple(tensor.shape)}"
                )
            if "lora_magnitude_vector" in name and any(
                reader.startswith(place.parameter) for reader in self.pure.names
            ):
                raise ValueError(
                    f"adapter entry {name!r} holds magnitudes (DoRA) of {place.parameter!r}, which norms are folded "
                    "into: they are no longer those of its rows"
                )
            moved = self._along(moved, place.parameter, axis, dim)
        return moved * self.alpha if scales and self.alpha != 1.0 else moved.clone()

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor that was trained as it is, and saved beside the factors."""
        module, _, what = SAVED.sub("", name).rpartition(".")
        parameter = _named(name, module, self.choice.spec, what)
        old = self.base[parameter]
        if old.shape != tensor.shape:
            raise ValueError(
                f"adapter entry {name!r} must be {tuple(old.shape)}, as {parameter!r} is, got {tuple(tensor.shape)}"
            )
        if self.pure.is_folded(parameter):
            raise ValueError(
                f"adapter entry {name!r} is of a norm that is folded, and cannot be carried over by itself"
            )
        if any(self._biases_along(parameter, dim, size) is not None for dim, size in enumerate(tensor.shape)):
            raise ValueError(
                f"adapter entry {name!r} reads a norm with a bias, which a whole weight alone cannot take along"
            )
        dtype = torch.promote_types(torch.float32, tensor.dtype)
        parts = [self._through(parameter, x.to(dtype)) for x in (tensor, old)]
        summed = permuted_lerp(
            [self.new[parameter].to(dtype), *parts], [1.0, self.alpha, -self.alpha], [(None,) * tensor.ndim] * 3
        )
        return summed.to(tensor.dtype)

    def biases(
        self, adapter: Mapping[str, Tensor], carried: Mapping[str, Tensor], fan_in_fan_out: bool
    ) -> dict[str, Tensor]:
        """What is missing where norms have biases: of each low-rank B, with 0 for those that miss nothing."""
        found: dict[str, Tensor] = {}
        missing = False
        for name, factor in adapter.items():
            told = FACTOR.match(name)
            other = name.replace(".lora_A", ".lora_B")
            if told is None or told["kind"] != "lora_A" or other not in carried:
                continue
            parameter = _named(name, told["module"], self.choice.spec, "weight")
            both = self._biases_along(parameter, 0 if fan_in_fan_out else 1, factor.shape[1])
            b = carried[other]
            lost = torch.zeros(len(b), dtype=torch.float64)
            if both is not None:
                ours, theirs = (_summed(a, bias) for a, bias in zip((factor, carried[name]), both, strict=True))
                lost = b.double().flatten(1) @ (ours - theirs)
                missing = missing or bool(lost.any())
            bias = other.removesuffix("weight") + "bias"
            found[bias] = (carried[bias].double() + lost if bias in carried else lost).to(b.dtype)
        return found if missing else {}

    def _biases_along(self, parameter: str, axis: int, size: int) -> tuple[Tensor, Tensor] | None:
        """What norms add along an axis, in the base and in the new model; None where they add nothing."""
        base, new = (self.pure.added(parameter, axis, size, of) for of in (self.base, self.new))
        if base is None or new is None or not (bool(base.any()) or bool(new.any())):
            return None
        return base, new

    def _size(self, parameter: str, axis: int) -> int:
        return axis_size(self.choice.spec.axes[parameter][axis].segments, self.choice.spec.sizes)

    def _along(self, tensor: Tensor, parameter: str, axis: int, dim: int) -> Tensor:
        """A factor whose dimension runs along an axis of a parameter, moved: out of one norm's gain, into another's."""
        scales = self._scales(parameter, axis, self._size(parameter, axis))
        if scales is None:
            return moved_along(self.choice, parameter, axis, tensor, dim)
        before, after = (each.reshape([-1 if k == dim else 1 for k in range(tensor.ndim)]) for each in scales)
        moved = moved_along(self.choice, parameter, axis, tensor.double() * before, dim)
        return _over(moved, after, parameter).to(tensor.dtype)

    def _through(self, parameter: str, tensor: Tensor) -> Tensor:
        """As `_along`, of a whole parameter."""
        found = [self._scales(parameter, dim, size) for dim, size in enumerate(tensor.shape)]
        exact = tensor.double() if any(found) else tensor
        shaped = [
            [each.reshape([-1 if k == dim else 1 for k in range(tensor.ndim)]) for each in scales]
            for dim, scales in enumerate(found)
            if scales is not None
        ]
        for before, _ in shaped:
            exact = exact * before
        exact = self.choice.apply_to(parameter, exact)
        for _, after in shaped:
            exact = _over(exact, after, parameter)
        return exact.to(tensor.dtype)

    def _scales(self, parameter: str, axis: int, size: int) -> tuple[Tensor, Tensor] | None:
        """The gains along an axis in the base and in the new model; None where no norm is folded into it."""
        before, after = (self.pure.scale(parameter, axis, size, of) for of in (self.base, self.new))
        return None if before is None or after is None else (before, after)


def _over(moved: Tensor, gain: Tensor, parameter: str) -> Tensor:
    """What has taken another gain along, without this one: ValueError where it is 0 and something is behind it."""
    zero = gain == 0
    if bool(((moved != 0) & zero).any()):
        raise ValueError(
            f"the norm that {parameter!r} reads has gains of 0 in the new model: what an adapter adds there cannot be "
            "seen behind them"
        )
    return moved / torch.where(zero, 1.0, gain)


def _summed(factor: Tensor, bias: Tensor) -> Tensor:
    """What a low-rank A gives of the same numbers at every place: float64 [rank]."""
    exact = factor.double()
    return (exact * bias.reshape(-1, *(1,) * (exact.ndim - 2))).flatten(1).sum(1)


def _place(name: str, kind: str, parameter: str, choice: Choice, fan_in_fan_out: bool) -> _Place:
    axes = choice.spec.axes[parameter]
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
