"""Weights that a layer computes from other tensors: normalised, pruned, or parametrised in any other way.

What the function sees is the effective weight; what a state dict holds are its sources: a direction and a length of
weight normalisation (Salimans, Kingma, NeurIPS 2016), a matrix with estimates of its leading singular vectors of
spectral normalisation (Miyato et al., ICLR 2018), a weight and a mask of pruning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized, type_before_parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

__all__ = [
    "Derived",
    "bake",
    "derived_weights",
    "effective_tensors",
    "has_stale_weights",
    "main_source",
    "prune_first",
    "refresh",
]

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
        settle: of other parametrisations with spectral norms among them: the sources with singular vectors anew.
        within: sources of this that are pruned themselves, each in the place of those that it is computed from.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    main: str
    effective: Callable[[Mapping[str, Tensor]], Tensor]
    dim: int = 0
    settle: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    within: tuple[Derived, ...] = ()

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
        if self.within:
            own = {one.name: one.effective(sources) for one in self.within}
            names = tuple(dict.fromkeys(map(self._own_source, self.sources)))
            outer = replace(self, sources=names, main=self._own_source(self.main), within=())
            found = outer.settled({**sources, **own}, weight)
            for one in self.within:
                found |= one.settled(sources, found.pop(one.name))
            return found
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
        elif self.settle is not None:
            found = self.settle(found)
        return found

    def _own_source(self, name: str) -> str:
        """What the weight itself is computed from: a source that is pruned, not what that is made of."""
        return next((one.name for one in self.within if name in one.sources), name)


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
    return [derived for derived in _joined(found) if all(name in tensors for name in derived.sources)]


def _joined(found: list[Derived]) -> list[Derived]:
    """With sources that are pruned themselves taken into what is computed from them."""
    pruned = {one.name: one for one in found if one.kind == "pruned"}
    whole = []
    for one in found:
        within = tuple(pruned[name] for name in one.sources if name in pruned)
        if within:
            sources = [
                source for name in one.sources for source in (pruned[name].sources if name in pruned else (name,))
            ]
            main = pruned[one.main].main if one.main in pruned else one.main
            effective = partial(_through, one.effective, within)
            one = replace(one, sources=tuple(sources), main=main, effective=effective, within=within)
        whole.append(one)
    # What a parametrisation prunes inside is in the parametrised weight already.
    inner = {source for one in whole for source in one.sources if one.within or one.kind == "parametrised"}
    return [one for one in whole if one.kind != "pruned" or inner.isdisjoint(one.sources)]


def _through(
    effective: Callable[[Mapping[str, Tensor]], Tensor], within: tuple[Derived, ...], tensors: Mapping[str, Tensor]
) -> Tensor:
    return effective({**tensors, **{one.name: one.effective(tensors) for one in within}})


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
    # Each may be pruned itself.
    every = (source for name in candidates for source in (name, f"{name}_orig"))
    return next((name for name in every if name in names), None)


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
    has_norms = any(type(part).__name__ == "_SpectralNorm" for part in parts)
    settle = partial(_settled_norms, parts, prefix) if has_norms else None
    return Derived(name, "parametrised", tuple(state), main, partial(_run, parts, prefix), settle=settle)


def _run(parts: ParametrizationList, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
    # Parametrisations may write to their buffers.
    state = {name: tensors[f"{prefix}.{name}"].clone() for name in parts.state_dict()}
    with _evaluating(parts), torch.no_grad():
        weight: Tensor = functional_call(parts, state, ())
    return weight.detach()


def _settled_norms(parts: ParametrizationList, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sources with the singular vectors of spectral norms after power iteration at these weights."""
    state = {name: tensors[f"{prefix}.{name}"].clone() for name in parts.state_dict()}
    with _evaluating(parts), torch.no_grad():
        for part in parts:
            # These iterate when they train.
            part.training = type(part).__name__ == "_SpectralNorm"
        before = functional_call(parts, state, ())
        for _ in range(_STEPS):
            weight = functional_call(parts, state, ())
            if torch.equal(weight, before):
                break
            before = weight
        for part in parts:
            part.training = False
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


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
    pruned = [name[:-5] for name in tensors if name.endswith("_orig") and f"{name[:-5]}_mask" in tensors]
    yield from (_pruned(name, f"{name}_orig", f"{name}_mask") for name in pruned)
    # Sources may be pruned.
    tensors = {**tensors, **{name: tensors[f"{name}_orig"] for name in pruned}}
    for name, tensor in tensors.items():
        if name.endswith("_v") and f"{name[:-2]}_g" in tensors:
            length = f"{name[:-2]}_g"
            yield _weight_norm(name[:-2], length, name, _dim_of(tensors[length], tensor))
        elif name.endswith("_orig") and f"{name[:-5]}_u" in tensors:
            vectors = [f"{name[:-5]}_{letter}" for letter in "uv"]
            yield _spectral_norm(name[:-5], name, vectors, _outputs_of(tensors, vectors, tensor))
        elif match := re.fullmatch(r"(.*?)parametrizations\.([^.]+)\.original(1?)", name):
            layer, leaf, second = match.groups()
            prefix = name[: name.rindex(".")]
            vectors = [f"{prefix}.0._u", f"{prefix}.0._v"]
            if second and f"{prefix}.original0" in tensors:
                length = f"{prefix}.original0"
                yield _weight_norm(layer + leaf, length, name, _dim_of(tensors[length], tensor))
            elif not second and all(vector in tensors for vector in vectors):
                yield _spectral_norm(layer + leaf, name, vectors, _outputs_of(tensors, vectors, tensor))


def _dim_of(length: Tensor, direction: Tensor) -> int:
    """The axis that weight normalisation leaves: -1 for one length of the whole."""
    kept = [dim for dim, size in enumerate(length.shape) if size != 1]
    if len(kept) == 1 and length.ndim == direction.ndim:
        return kept[0]
    return 0 if length.ndim == direction.ndim and direction.ndim and direction.shape[0] == 1 else -1


def _outputs_of(tensors: Mapping[str, Tensor], vectors: Iterable[str], matrix: Tensor) -> int:
    """The axis of a spectral norm's rows: of those that have the left vector's size, that of the largest value."""
    left, right = (tensors[name] for name in vectors)
    dims = [dim for dim, size in enumerate(matrix.shape) if size == left.numel()]
    if len(dims) < 2 or left.numel() * right.numel() != matrix.numel() or matrix.is_meta:
        return dims[0] if dims else 0

    def value(dim: int) -> float:
        return float((left.double() @ matrix.movedim(dim, 0).flatten(1).double() @ right.double()).abs())

    return max(dims, key=value)


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


def prune_first(module: nn.Module) -> None:
    """Let layers prune before they compute anything from what is pruned, which would be that of the call before."""
    for layer in module.modules():
        hooks: Any = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, prune.BasePruningMethod)][::-1]:
            hooks.move_to_end(key, last=False)


def refresh(module: nn.Module) -> None:
    """Compute anew the effective weights that layers keep as attributes, after their sources were changed."""
    state = dict(module.state_dict())
    for path, layer in module.named_modules():
        # Pruned ones first: others may be computed from them.
        for derived in sorted(_of(path, layer), key=_is_not_pruned) if has_stale_weights(layer) else ():
            leaf = derived.name.rpartition(".")[2]
            if leaf in layer.__dict__:
                state[derived.name] = derived.effective(state)
                setattr(layer, leaf, state[derived.name])


def _is_not_pruned(derived: Derived) -> bool:
    return derived.kind != "pruned"


def bake(module: nn.Module) -> None:
    """Put plain parameters in the place of derived weights, in the module itself."""
    prune_first(module)
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
