"""Models in pure form: the gains of their norms are in the linear maps that read them, so that a stream may turn.

RMSNorm and LayerNorm commute with rotations of what they normalise, but for their weights, which act entry by entry.
With a gain g and a bias c, W (g * x + c) + b is (W g) x + (b + W c) (Ashkboos et al., "SliceGPT", ICLR 2024).
LayerNorms stay LayerNorms, and permit the rotations that keep the vector of ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_type
from .._models import ModelT, accumulate_dtype, copied, load_tensors, tensors_of, unwrapped
from .._modes import neutral
from .folds import Centre, Fold, Reader
from .spec import PermutationSpec

__all__ = ["PureForm", "check_pure", "fold_norms", "is_pure", "untied"]

# A gain is taken for 1, and a bias for 0, within this.
TOLERANCE = 1e-5
# Of configurations of transformers: the output reads the embeddings.
TIES = "tie_word_embeddings"


class PureForm:
    """What the tensors of a model become in pure form, one at a time.

    ``pure.needs(name)`` are the tensors that one is made of, and ``pure.tensor(name, tensors)`` makes it of these, so
    that a checkpoint is folded with few tensors in memory.

    Args:
        folds: of a spec.
    """

    def __init__(self, folds: Iterable[Fold | Centre]) -> None:
        self._own: dict[str, Fold] = {}
        self._reading: dict[str, list[tuple[Fold, Reader]]] = {}
        self._adding: dict[str, list[tuple[Fold, Reader]]] = {}
        self._centred: dict[str, list[Centre]] = {}
        for fold in folds:
            if isinstance(fold, Centre):
                self._centred.setdefault(fold.parameter, []).append(fold)
                continue
            self._own[fold.weight] = fold
            if fold.bias is not None:
                self._own[fold.bias] = fold
            for reader in fold.readers:
                self._reading.setdefault(reader.parameter, []).append((fold, reader))
                if reader.bias is not None and fold.bias is not None and not fold.keeps_bias:
                    self._adding.setdefault(reader.bias, []).append((fold, reader))

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors that are others in pure form."""
        return tuple(dict.fromkeys((*self._own, *self._reading, *self._adding, *self._centred)))

    @property
    def untied(self) -> dict[str, str]:
        """Weights that are tensors of their own in pure form, each with the name that it was tied to."""
        return {
            reader.parameter: reader.tied
            for readers in self._reading.values()
            for _, reader in readers
            if reader.tied is not None
        }

    def needs(self, name: str) -> tuple[str, ...]:
        """Names of the tensors that `tensor` takes for this one; itself first. In the place of a weight that is tied
        the name that it is tied to will do."""
        found = [name]
        fold = self._own.get(name)
        if fold is not None and name == fold.bias and fold.keeps_bias:
            found.append(fold.weight)
        for reading, _ in self._reading.get(name, ()):
            found.append(reading.weight)
        for adding, reader in self._adding.get(name, ()):
            assert adding.bias is not None
            found += [reader.parameter, adding.bias]
        return tuple(dict.fromkeys(found))

    def tensor(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """A tensor in pure form: a new one of the same shape, dtype and device; one that is as it was, as it is.

        Products are taken in float64 for float64 and in float32 for all else, sums in float64.

        Args:
            tensors: those that `needs` names, at least.

        Raises:
            ValueError: a reader that does not fit its norm, or a norm that keeps its bias and has gains of 0.
        """
        own = self._given(name, tensors)
        fold = self._own.get(name)
        if fold is not None:
            return self._of_norm(fold, name, own, tensors)
        # Sums over a reader's columns are of the weight as it was, which is what the bias of its norm met.
        result = own
        for adding, reader in self._adding.get(name, ()):
            assert adding.bias is not None
            weight = self._given(reader.parameter, tensors)
            result = _with_sums(result, weight, tensors[adding.bias], reader, adding.weight)
        for reading, reader in self._reading.get(name, ()):
            result = _scaled(result, _gain(reading, tensors), reader, reading.weight)
        for centre in self._centred.get(name, ()):
            exact = result.to(torch.float64)
            result = (exact - exact.mean(centre.axis, keepdim=True)).to(result.dtype)
        return result

    def scale(self, name: str, axis: int, size: int, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """What a weight is multiplied by along one of its axes: float64 [size]; None where it is nothing.

        Args:
            tensors: with the norms' weights as they were before they were folded.
        """
        found: Tensor | None = None
        for fold, reader in self._reading.get(name, ()):
            if reader.axis == axis:
                found = torch.ones(size, dtype=torch.float64) if found is None else found
                gain = _gain(fold, tensors).to("cpu", torch.float64)
                along = _along(gain, replace(reader, axis=0), fold.weight, found)
                found[reader.offset : reader.offset + len(along)] *= along
        return found

    def added(self, name: str, axis: int, size: int, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """What the biases of norms add along the axis of a weight that is summed over: float64 [size], or None."""
        found: Tensor | None = None
        for fold, reader in self._reading.get(name, ()):
            if fold.bias is not None and reader.axis == axis:
                found = torch.zeros(size, dtype=torch.float64) if found is None else found
                along = _along(tensors[fold.bias].to("cpu", torch.float64), replace(reader, axis=0), fold.weight, found)
                found[reader.offset : reader.offset + len(along)] += along
        return found

    def is_folded(self, name: str) -> bool:
        """Whether a tensor is a norm's gain, or a bias, that goes into what reads it."""
        return name in self._own

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of a model in pure form: those that are as they were, as they are; untied ones added."""
        found = {name: self.tensor(name, tensors) for name in tensors}
        for name, tied in self.untied.items():
            if name not in found and tied in tensors:
                found[name] = self.tensor(name, tensors)
        return found

    def _given(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors[name] if name in tensors else tensors[self.untied.get(name, name)]

    def _of_norm(self, fold: Fold, name: str, own: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        if name == fold.weight:
            return torch.full_like(own, fold.neutral)
        if not fold.keeps_bias:
            return torch.zeros_like(own)
        gain = _gain(fold, tensors).to(torch.float64)
        if bool(((gain == 0) & (own != 0)).any()):
            raise ValueError(
                f"norm {fold.weight!r} cannot be folded: its bias {name!r} has to be divided by gains of 0"
            )
        return torch.where(own == 0, 0.0, own.to(torch.float64) / gain).to(own.dtype)


def _gain(fold: Fold, tensors: Mapping[str, Tensor]) -> Tensor:
    weight = tensors[fold.weight]
    return weight if fold.neutral == 1.0 else weight.to(torch.float64) + (1.0 - fold.neutral)


def _along(values: Tensor, reader: Reader, norm: str, weight: Tensor) -> Tensor:
    """The values of a norm's n units at the places that they have on a reader's axis: [..., places, ...]."""
    size = weight.shape[reader.axis]
    repeated = values.reshape(1, -1, 1).expand(reader.outer, -1, reader.inner).reshape(-1)
    if reader.offset + len(repeated) > size:
        raise ValueError(
            f"axis {reader.axis} of {reader.parameter!r} has {size} entries, but norm {norm!r} is read there at "
            f"{reader.offset}..{reader.offset + len(repeated)}"
        )
    return repeated.reshape([-1 if dim == reader.axis else 1 for dim in range(weight.ndim)])


def _check_axis(weight: Tensor, reader: Reader, norm: str) -> None:
    if reader.axis >= weight.ndim:
        raise ValueError(f"{reader.parameter!r} has {weight.ndim} dimensions, but {norm!r} is read along {reader.axis}")


def _scaled(weight: Tensor, gain: Tensor, reader: Reader, norm: str) -> Tensor:
    """A reader's weight times the norm's gain, along the axis that is summed over."""
    _check_axis(weight, reader, norm)
    sums = accumulate_dtype(weight.dtype)
    along = _along(gain.to(weight.device, sums), reader, norm, weight)
    result = weight.clone()
    part = result.narrow(reader.axis, reader.offset, along.numel())
    part.copy_((part.to(sums) * along).to(weight.dtype))
    return result


def _with_sums(bias: Tensor, weight: Tensor, added: Tensor, reader: Reader, norm: str) -> Tensor:
    """A reader's bias with what the norm's bias gives through the weight."""
    _check_axis(weight, reader, norm)
    exact = weight.to(torch.float64)
    along = _along(added.to(weight.device, torch.float64), reader, norm, exact)
    part = exact.narrow(reader.axis, reader.offset, along.numel())
    sums = (part * along).sum(reader.axis)
    if sums.numel() != bias.numel():
        # The places of a kernel.
        sums = sums.flatten(bias.ndim).sum(-1) if sums.ndim > bias.ndim else sums
    if sums.numel() != bias.numel():
        raise ValueError(
            f"bias {reader.bias!r} has {bias.numel()} entries, but {reader.parameter!r} gives {sums.numel()} sums"
        )
    return (bias.to(torch.float64) + sums.reshape(bias.shape)).to(bias.dtype)


def untied(module: nn.Module, spec: PermutationSpec) -> nn.Module:
    """A copy with tensors of their own where the pure form has two for one, and a configuration that says so."""
    twin = copied(unwrapped("model", module))
    names = PureForm(spec.folds).untied
    for name in names:
        path, _, leaf = name.rpartition(".")
        part = twin.get_submodule(path)
        own = part._parameters[leaf]
        assert own is not None
        part._parameters[leaf] = nn.Parameter(own.detach().clone(), own.requires_grad)
    if names:
        for part in twin.modules():
            _say_untied(getattr(part, "config", None))
            # What transformers looks at when it saves and loads.
            if getattr(part, "all_tied_weights_keys", None):
                vars(part)["all_tied_weights_keys"] = {}
    return twin


def _say_untied(config: Any) -> None:
    """Of a configuration of transformers, with those inside it."""
    if config is None:
        return
    for inside in (config, *(value for value in vars(config).values() if hasattr(value, TIES))):
        if getattr(inside, TIES, False):
            setattr(inside, TIES, False)


@neutral
def fold_norms(model: ModelT, spec: PermutationSpec, *, example_inputs: Any = None) -> ModelT:
    """A model in pure form, which computes the same: what a spec with rotations describes.

    The gains of the norms that ``spec.folds`` names go into the linear maps that read them, and become 1. So do their
    biases, and become 0, but for those that are read by a map without a bias, which are divided by the gain. What
    writes to a stream that LayerNorms alone read loses its mean over the stream's axis. Layers stay of their class.

    Tied weights of which one reads a norm (the output of a language model that reads its embeddings) are two in pure
    form: they are untied, and ``config.tie_word_embeddings`` is False where there is one. A model in pure form stays as
    it is, up to rounding.

    Args:
        model: left as it is: a module, or a state dict. `symmetry.pure.PureForm` folds tensor by tensor.
        spec: derived with ``rotations=True``, or by hand with `folds`.
        example_inputs: of a module, what a forward pass takes, as of `verify_spec`. Where they are given, what is
            folded is tried on random weights in float64.

    Returns:
        A new model of the same kind, in the dtypes of the old one.

    Raises:
        TypeError: `model` is neither module nor state dict, or example inputs with a state dict.
        ValueError: the spec does not fit the model, or a norm that keeps its bias has gains of 0.
        SymmetryError: folding changes the outputs.
    """
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    if example_inputs is not None and not isinstance(model, nn.Module):
        raise TypeError(f"example_inputs must come with a module to run them on, got a {type(model).__name__}")
    bound = spec.bind(model)
    pure = PureForm(bound.folds)
    if not isinstance(model, nn.Module):
        folded: Any = pure(tensors_of("model", model))
        return type(folded)((name, tensor.clone()) for name, tensor in folded.items())  # type: ignore[no-any-return]
    if example_inputs is not None:
        from .verify import verify_folds

        verify_folds(model, bound, example_inputs)
    made: Any = untied(model, bound)
    load_tensors(made, pure(tensors_of("model", made)))
    return made  # type: ignore[no-any-return]


def is_pure(tensors: Mapping[str, Tensor], fold: Fold) -> bool:
    """Whether a norm's gain is 1 everywhere, and its bias 0 where it is folded."""
    weight = tensors[fold.weight].double()
    off = float((weight - fold.neutral).abs().max()) if weight.numel() else 0.0
    if fold.bias is not None and not fold.keeps_bias and tensors[fold.bias].numel():
        off = max(off, float(tensors[fold.bias].double().abs().max()))
    return off <= TOLERANCE


def check_pure(argument: str, tensors: Mapping[str, Tensor], spec: PermutationSpec) -> None:
    """Raise ValueError, naming the norm, where a model of a spec with folds is not in pure form.

    Means that LayerNorms take out change nothing, and are not looked at.

    Args:
        argument: what the caller calls the model.
        tensors: of the model, by the names of the spec.
    """
    for fold in spec.folds:
        if isinstance(fold, Fold) and not is_pure(tensors, fold):
            raise ValueError(
                f"{argument} must be in pure form for a spec with rotations, but norm {fold.weight!r} is not folded: "
                f"lmc.fold_norms({argument}, spec) makes it so"
            )
