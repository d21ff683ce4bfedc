"""Does a spec keep the function? Random permutations in, the same outputs out, or the group that breaks it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._checks import check_finite, check_int, check_type
from .._models import STATISTICS, tensors_of
from .permutations import Permutations
from .spec import PermutationSpec

__all__ = ["SymmetryError", "verify_spec"]


# A unit that is silent for all example inputs hides what is done to it: draw the weights more than once.
TRIALS = 3


class SymmetryError(ValueError):
    """A spec permits a permutation that changes the model's outputs.

    Attributes:
        group: name of the group that breaks the function.
        error: largest change of an output entry, relative to the largest output entry.
    """

    def __init__(self, group: str, error: float, parameters: list[str]) -> None:
        self.group, self.error = group, error
        super().__init__(
            f"permuting group {group!r} changes the model's outputs by {error:.2g} (relative to the largest): "
            f"an axis that carries it is missing from the spec or wrong. It is on: {', '.join(parameters)}"
        )


def verify_spec(
    model: nn.Module, spec: PermutationSpec, example_inputs: Any, *, seed: int = 0, tolerance: float = 1e-10
) -> float:
    """Check that every group of `spec` can be permuted without changing what `model` computes.

    The check runs on a float64 copy in eval mode whose parameters and running statistics are random: zero biases,
    unit norms and zero-initialised layers of a fresh model would hide wrong permutations. Each root group (with
    all that it owns) is permuted by itself, so that a failure names its group. Forward hooks run on the copy too.

    Args:
        model: left as it is.
        spec: bound to the model here.
        example_inputs: a tensor, or a tuple or list of positional arguments; floating ones are used in float64.
        seed: of the random parameters and permutations.
        tolerance: largest allowed change of an output entry, relative to the largest output entry. Right specs
            change outputs by rounding in float64 only, about 1e-15.

    Returns:
        The largest relative change that was seen.

    Raises:
        TypeError: `model` is no module.
        ValueError: the spec does not fit the model, or the outputs at random weights are not finite.
        SymmetryError: a group breaks the function; it names the group and its parameters.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    check_type("spec", spec, PermutationSpec, "a PermutationSpec")
    check_int("seed", seed, 0)
    if not check_finite("tolerance", tolerance) > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    bound = spec.bind(tensors_of("model", model))
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    inputs = tuple(_as_double(x) for x in inputs)
    probe = copy.deepcopy(model).double().eval()
    rng = np.random.default_rng(seed)
    return max(_worst_change(probe, bound, inputs, rng, tolerance) for _ in range(TRIALS))


def _worst_change(
    probe: nn.Module, bound: PermutationSpec, inputs: tuple[Any, ...], rng: np.random.Generator, tolerance: float
) -> float:
    """Largest relative change over all root groups, at fresh random weights; SymmetryError above `tolerance`."""
    _randomise(probe, rng)
    original = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
    reference = _outputs(probe, inputs)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in reference):
        raise ValueError("model gives outputs that are not finite at random weights, so that nothing can be compared")
    worst = 0.0
    for root in bound.roots:
        tree = [name for name in bound.groups if bound.root_of(name) == root]
        permutation = Permutations(bound, {name: _moving_rows(bound.shape(name), rng) for name in tree})
        probe.load_state_dict(permutation.apply(original))
        error = _relative_change(_outputs(probe, inputs), reference)
        if not error <= tolerance:
            users = [name for name, axes in bound.axes.items() if any(root in axis.groups for axis in axes)]
            raise SymmetryError(root, error, users)
        worst = max(worst, error)
    return worst


def _randomise(module: nn.Module, rng: np.random.Generator) -> None:
    """Random weights at a scale that keeps activations alive, positive random variances."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = rng.standard_normal(tuple(tensor.shape))
            kind = name.rpartition(".")[2]
            if kind == STATISTICS[1]:
                values = 0.5 + rng.random(tuple(tensor.shape))
            elif tensor.ndim > 1:
                values /= np.sqrt(max(1, np.prod(tensor.shape[1:])))
            else:
                values = (1.0 if kind == "weight" else 0.25) + 0.5 * values
            tensor.copy_(torch.from_numpy(np.asarray(values)))


def _moving_rows(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Random permutations, none of them the identity where there is another."""
    identity = np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape)
    rows = rng.permuted(identity, axis=-1)
    still = (rows == identity).all(axis=-1, keepdims=True)
    return np.where(still, np.roll(rows, 1, axis=-1), rows)


def _outputs(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        return list(_tensors_in(module(*inputs)))


def _as_double(value: Any) -> Any:
    """Floating tensors in float64, inside tuples, lists and dicts as well."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _as_double(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_as_double(item) for item in value)
    return value


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.double()] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []


def _relative_change(outputs: list[Tensor], reference: list[Tensor]) -> float:
    if not reference:
        raise ValueError("model must return a floating point tensor, or a tuple, list or dict with one")
    worst = 0.0
    for out, ref in zip(outputs, reference, strict=True):
        scale = max(float(ref.abs().max()), torch.finfo(ref.dtype).tiny) if ref.numel() else 1.0
        change = float((out - ref).abs().max()) if ref.numel() else 0.0
        # not a number must fail
        worst = max(worst, change / scale) if change == change else float("nan")
    return worst
