"""Weights that a layer computes from other tensors: normalised, pruned, or parametrised in any other way.

What the function sees is the effective weight; what a state dict holds are its sources: a direction and a length of
weight normalisation (Salimans, Kingma, NeurIPS 2016), a matrix with estimates of its leading singular vectors of
spectral normalisation (Miyato et al., ICLR 2018), a weight and a mask of pruning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized, type_before_parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

__all__ = ["Derived", "bake", "derived_weights", "effective_tensors", "has_stale_weights", "main_source", "refresh"]

# Steps of power iteration at most, and the change of the singular value that ends it.
_STEPS = 1000
_SETTLED = 1e-12
# Keeps a matrix of zeros from dividing by its norm.
_TINY = 1e-300


@dataclass(frozen=True)
class Derived:
    """A weight that is computed from others.

    Attributes:
        name: of the weight, as its layer has it ("fc1.weight").
        kind: "weight norm", "spectral norm", "pruned" or "parametrised".
        sources: names of the tensors that it is computed from.
        main: of these the one that has the weight's axes.
        effective: the weight from its sources, by name; new, without gradients.
        dim: of the two normalisations, the axis of the outputs.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    main: str
    effective: Callable[[Mapping[str, Tensor]], Tensor]
    dim: int = 0

    @property
    def is_averaged(self) -> bool:
        """Whether a mean of effective weights has sources that give it."""
        return self.kind in ("weight norm", "pruned")

    def settled(self, sources: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
        """Sources of a merged model, from their means and, where `is_averaged`, the mean of the effective weights.

        A direction and length or a pruned weight give just that mean. A spectral norm is of the mean of its
        matrices, with singular vectors computed anew: averaged ones would be those of no matrix. Other
        parametrisations keep the means of their sources.
        """
        found = {name: sources[name] for name in self.sources}
        if self.kind == "weight norm":
            length, direction = self.sources
            norms = torch.norm_except_dim(weight, 2, self.dim).to(found[length].dtype)
            # A weight of zero has no direction.
            found[direction] = torch.where(norms.reshape(found[length].shape) == 0, found[direction], weight)
            found[length] = norms.reshape(found[length].shape)
        elif self.kind == "pruned":
            mask = self.sources[1]
            found[mask] = ((found[mask] != 0) | (weight != 0)).to(found[mask].dtype)
            found[self.main] = weight.to(found[self.main].dtype)
        elif self.kind == "spectral norm":
            matrix = found[self.main].movedim(self.dim, 0).flatten(1)
            left, right = leading_vectors(matrix, found[self.sources[1]])
            found[self.sources[1]] = left
            for name in self.sources[2:]:
                found[name] = right
        return found


def leading_vectors(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vector of the largest singular value, by power iteration in float64.

    Args:
        matrix: [rows, columns].
        start: [rows], where to begin.
    """
    wide = matrix.double()
    left = start.double()
    if not bool(torch.linalg.vector_norm(wide.T @ left) > 0):
        # Nothing of the start is left: any row of the matrix will do.
        left = wide[:, wide.abs().sum(0).argmax()]
    value = torch.zeros((), dtype=torch.float64, device=matrix.device)
    right = wide.new_zeros(wide.shape[1])
    for _ in range(_STEPS):
        right = nn.functional.normalize(wide.T @ left, dim=0, eps=_TINY)
        product = wide @ right
        reached = torch.linalg.vector_norm(product)
        left = product / reached if bool(reached > 0) else product
        if bool((reached - value).abs() <= _SETTLED * reached):
            break
        value = reached
    return left.to(start.dtype), right.to(start.dtype)


def derived_weights(model: object, tensors: Mapping[str, Tensor]) -> list[Derived]:
    """The derived weights of a module, or of a state dict by the names that torch gives to sources.

    A state dict does not tell how a weight is computed by parametrisations other than the two norms.
    """
    if isinstance(model, nn.Module):
        found = [derived for path, part in model.named_modules(remove_duplicate=False) for derived in _of(path, part)]
    else:
        found = list(_named(tensors))
    return [derived for derived in found if all(name in tensors for name in derived.sources)]


def effective_tensors(tensors: Mapping[str, Tensor], derived: Iterable[Derived]) -> dict[str, Tensor]:
    """The tensors with effective weights in the place of their sources."""
    weights = {source: one for one in derived for source in one.sources}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        one = weights.get(name)
        if one is None:
            found[name] = tensor
        elif one.name not in found:
            found[one.name] = one.effective(tensors)
    return found


def main_source(weight: str, names: Collection[str]) -> str | None:
    """Of the names of tensors the one whose axes a derived weight has; None if the weight is not derived from any."""
    layer, _, leaf = weight.rpartition(".")
    inside = f"{layer}.parametrizations.{leaf}".lstrip(".")
    candidates = (f"{weight}_orig", f"{weight}_v", f"{inside}.original1", f"{inside}.original0", f"{inside}.original")
    return next((name for name in candidates if name in names), None)


def _of(path: str, layer: nn.Module) -> Iterator[Derived]:
    """The derived weights of one layer."""

    def called(name: str) -> str:
        return f"{path}.{name}".lstrip(".")

    if is_parametrized(layer):
        lists: Any = layer.parametrizations
        for leaf, parts in lists.items():
            yield _parametrised(called(leaf), called(f"parametrizations.{leaf}"), parts)
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield _weight_norm(called(hook.name), called(f"{hook.name}_g"), called(f"{hook.name}_v"), hook.dim)
        elif isinstance(hook, SpectralNorm):
            vectors = [called(f"{hook.name}_{letter}") for letter in "uv"]
            yield _spectral_norm(called(hook.name), called(f"{hook.name}_orig"), vectors, hook.dim)
        elif isinstance(hook, prune.BasePruningMethod):
            leaf = str(hook._tensor_name)
            yield _pruned(called(leaf), called(f"{leaf}_orig"), called(f"{leaf}_mask"))


def _parametrised(name: str, prefix: str, parts: ParametrizationList) -> Derived:
    first: Any = parts[0]
    kind = type(first).__name__ if len(parts) == 1 else ""
    state = [f"{prefix}.{entry}" for entry in parts.state_dict()]
    if kind == "_WeightNorm":
        return _weight_norm(name, f"{prefix}.original0", f"{prefix}.original1", first.dim)
    if kind == "_SpectralNorm" and f"{prefix}.0._u" in state:
        return _spectral_norm(name, f"{prefix}.original", [f"{prefix}.0._u", f"{prefix}.0._v"], first.dim)
    with _evaluating(parts), torch.no_grad():
        shape = parts().shape
    originals = [entry for entry, tensor in parts.named_parameters(recurse=False) if tensor.shape == shape]
    main = f"{prefix}.{originals[0]}" if originals else state[0]
    return Derived(name, "parametrised", tuple(state), main, partial(_run, parts, prefix))


def _run(parts: ParametrizationList, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
    # Parametrisations may write to their buffers.
    state = {name: tensors[f"{prefix}.{name}"].clone() for name in parts.state_dict()}
    with _evaluating(parts), torch.no_grad():
        weight: Tensor = functional_call(parts, state, ())
    return weight.detach()


class _evaluating:
    """Parametrisations in eval mode: spectral norms go on with their power iteration when they train."""

    def __init__(self, parts: nn.Module) -> None:
        self._modes = [(part, part.training) for part in parts.modules() if part.training]

    def __enter__(self) -> None:
        for part, _ in self._modes:
            part.training = False

    def __exit__(self, *_: object) -> None:
        for part, mode in self._modes:
            part.training = mode


def _named(tensors: Mapping[str, Tensor]) -> Iterator[Derived]:
    """The derived weights of a state dict, by names."""
    for name, tensor in tensors.items():
        if name.endswith("_v") and f"{name[:-2]}_g" in tensors:
            length = f"{name[:-2]}_g"
            yield _weight_norm(name[:-2], length, name, _dim_of(tensors[length], tensor))
        elif name.endswith("_orig") and f"{name[:-5]}_mask" in tensors:
            yield _pruned(name[:-5], name, f"{name[:-5]}_mask")
        elif name.endswith("_orig") and f"{name[:-5]}_u" in tensors:
            vectors = [f"{name[:-5]}_{letter}" for letter in "uv"]
            yield _spectral_norm(name[:-5], name, vectors, _outputs_of(tensors[vectors[0]], tensor))
        elif match := re.fullmatch(r"(.*?)parametrizations\.([^.]+)\.original(1?)", name):
            layer, leaf, second = match.groups()
            prefix = name[: name.rindex(".")]
            vectors = [f"{prefix}.0._u", f"{prefix}.0._v"]
            if second and f"{prefix}.original0" in tensors:
                length = f"{prefix}.original0"
                yield _weight_norm(layer + leaf, length, name, _dim_of(tensors[length], tensor))
            elif not second and all(vector in tensors for vector in vectors):
                yield _spectral_norm(layer + leaf, name, vectors, _outputs_of(tensors[vectors[0]], tensor))


def _dim_of(length: Tensor, direction: Tensor) -> int:
    """The axis that weight normalisation leaves: -1 for one length of the whole."""
    kept = [dim for dim, size in enumerate(length.shape) if size != 1]
    if len(kept) == 1 and length.ndim == direction.ndim:
        return kept[0]
    return 0 if length.ndim == direction.ndim and direction.ndim and direction.shape[0] == 1 else -1


def _outputs_of(vector: Tensor, matrix: Tensor) -> int:
    """The axis of a spectral norm's rows: the first that has the left vector's size."""
    return next((dim for dim, size in enumerate(matrix.shape) if size == vector.numel()), 0)


def _weight_norm(name: str, length: str, direction: str, dim: int | None) -> Derived:
    axis = -1 if dim is None else dim

    def effective(tensors: Mapping[str, Tensor]) -> Tensor:
        weight: Tensor = torch._weight_norm(tensors[direction].detach(), tensors[length].detach(), axis)
        return weight

    return Derived(name, "weight norm", (length, direction), direction, effective, axis)


def _spectral_norm(name: str, matrix: str, vectors: Iterable[str], dim: int) -> Derived:
    left, right = vectors

    def effective(tensors: Mapping[str, Tensor]) -> Tensor:
        weight = tensors[matrix].detach()
        rows = weight.movedim(dim, 0).flatten(1)
        return weight / torch.dot(tensors[left].detach(), torch.mv(rows, tensors[right].detach()))

    return Derived(name, "spectral norm", (matrix, left, right), matrix, effective, dim)


def _pruned(name: str, weight: str, mask: str) -> Derived:
    def effective(tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors[weight].detach() * tensors[mask].detach().to(tensors[weight].dtype)

    return Derived(name, "pruned", (weight, mask), weight, effective)


def has_stale_weights(module: nn.Module) -> bool:
    """Whether a layer keeps its effective weight as an attribute, which a forward pass overwrites."""
    kinds = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return any(isinstance(hook, kinds) for part in module.modules() for hook in part._forward_pre_hooks.values())


def refresh(module: nn.Module) -> None:
    """Compute anew the effective weights that layers keep as attributes, after their sources were changed."""
    state = dict(module.state_dict())
    for path, layer in module.named_modules():
        for derived in _of(path, layer) if has_stale_weights(layer) else ():
            leaf = derived.name.rpartition(".")[2]
            if leaf in layer.__dict__:
                setattr(layer, leaf, derived.effective(state))


def bake(module: nn.Module) -> None:
    """Put plain parameters in the place of derived weights, in the module itself."""
    for layer in list(module.modules()):
        if is_parametrized(layer):
            # Not by torch's remove_parametrizations: that takes properties off the class, which copies share.
            lists: Any = layer.parametrizations
            with _evaluating(layer), torch.no_grad():
                weights = {leaf: parts() for leaf, parts in lists.items()}
            layer.__class__ = type_before_parametrizations(layer)
            del layer._modules["parametrizations"]
            for leaf, weight in weights.items():
                layer.register_parameter(leaf, nn.Parameter(weight.detach().clone()))
        for hook in list(layer._forward_pre_hooks.values()):
            with _evaluating(layer):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(layer, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(layer, hook.name)
                elif isinstance(hook, prune.BasePruningMethod):
                    prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]
