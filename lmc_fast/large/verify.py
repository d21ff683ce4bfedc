"""Whether an aligned checkpoint computes what the original does, with the weights of one layer at a time in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_int, check_type
from .._models import accumulate_dtype
from .._modes import neutral
from .._nested import leaves, mapped
from ..checkpoints.building import offline
from ..checkpoints.directories import ModelDirectory
from .inputs import Input, open_input

__all__ = ["Agreement", "same_outputs", "verify_aligned"]

# Rounding of sums in another order, times what a deep network makes of it.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How far the outputs of two models are apart.

    Attributes:
        difference: the largest ||y - y'|| / ||y|| of all outputs.
        outputs: how many were compared, over all inputs.
        inputs: how many forward passes each model made.
        tolerance: what is taken for rounding.
    """

    difference: float
    outputs: int
    inputs: int
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether the two compute the same function, up to rounding."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        what = "the same function" if self.holds else "not the same function"
        return (
            f"{what}: {self.outputs} outputs on {self.inputs} random inputs differ by {self.difference:.2g} at most, "
            f"relative to their norm ({self.tolerance:g} is taken for rounding)"
        )


@neutral
def verify_aligned(
    aligned: str | Path,
    original: str | Path,
    *,
    inputs: int = 3,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Agreement:
    """Run two model directories on the same random inputs and compare what they compute.

    Weights are read by memory map, and those of one layer at a time are cast to float32.

    Args:
        aligned: what ``merge_checkpoints(..., align_only=True)`` wrote, say.
        original: the model that it was made of.
        inputs: how many forward passes to compare.
        seed: of the inputs.
        trust_remote_code: whether code in the directories may be run.

    Raises:
        FileNotFoundError, ValueError: no model directory, or not whole; two architectures.
        ImportError: transformers or diffusers is not installed.
    """
    for name, path in (("aligned", aligned), ("original", original)):
        check_type(name, path, (str, Path), "a path")
        if not Path(path).is_dir():
            raise FileNotFoundError(f"model directory {str(path)!r} does not exist")
    check_int("inputs", inputs, 1)
    check_int("seed", seed, 0)
    first = open_input(aligned, "aligned", trust_remote_code=trust_remote_code)
    other = open_input(original, "original", like=first, trust_remote_code=trust_remote_code)
    assert first.directory is not None
    modules = []
    for each in (first, other):
        if any(not one.is_plain for one in each.conversions):
            raise ValueError(
                f"model {str(each.path)!r} lays stored tensors together (experts), and is not verified by file: load "
                "it, and compare outputs"
            )
        each.attach()
        modules.append(_filled(first.directory, each))
    return same_outputs(modules[0], modules[1], first.directory.example_inputs, inputs=inputs, seed=seed)


def same_outputs(
    aligned: nn.Module, original: nn.Module, example_inputs: Mapping[str, Any], *, inputs: int = 3, seed: int = 0
) -> Agreement:
    """Compare two modules in eval mode on the example inputs, and on random ones like these.

    Args:
        example_inputs: keyword arguments of a forward pass. Random floats are drawn anew; whole numbers are drawn
            between those that are there.
        inputs: how many passes.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    worst, count = 0.0, 0
    for number in range(inputs):
        given = dict(example_inputs) if number == 0 else mapped(dict(example_inputs), lambda x: _drawn(x, generator))
        with torch.no_grad(), _layer_by_layer(aligned), _layer_by_layer(original):
            found, wanted = (
                [x for x in leaves(module(**given)) if isinstance(x, Tensor) and x.is_floating_point()]
                for module in (aligned, original)
            )
        for x, y in zip(found, wanted, strict=True):
            norm = float(y.double().norm())
            apart = float((x.double() - y.double()).norm())
            worst = max(worst, apart / norm if norm > 0 else apart)
            # nan is no agreement.
            worst = worst if math.isfinite(apart) else math.inf
            count += 1
    return Agreement(worst, count, inputs)


def _drawn(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
    low, high = int(value.min()), int(value.max())
    return torch.randint(low, high + 1, value.shape, generator=generator, dtype=value.dtype)


def _filled(directory: ModelDirectory, each: Input) -> nn.Module:
    """The module with mapped tensors for its weights; nothing is copied."""
    with offline(), _weightless():
        module = directory.make().eval()
    held = {name: each.tensors[name] for name in module.state_dict() if name in each.tensors}
    module.load_state_dict(held, strict=False, assign=True)
    left = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if left:
        raise ValueError(f"model {str(each.path)!r} lacks {left[0]!r}, without which nothing can be computed")
    return module


@contextmanager
def _weightless() -> Iterator[None]:
    """Have modules made in here keep their parameters on the meta device, one after another; buffers are computed."""
    plain = nn.Module.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        plain(module, name, None if param is None else nn.Parameter(param.detach().to("meta"), param.requires_grad))

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]


@contextmanager
def _layer_by_layer(module: nn.Module) -> Iterator[None]:
    """While in here each layer's own parameters are cast to float32 as it runs, and put back after it."""
    kept: dict[nn.Module, dict[str, Tensor]] = {}

    def wider(part: nn.Module, *_: Any) -> None:
        own = kept.setdefault(part, {})
        for name, parameter in part.named_parameters(recurse=False):
            if accumulate_dtype(parameter.dtype) != parameter.dtype:
                own[name] = parameter.data
                parameter.data = parameter.data.to(accumulate_dtype(parameter.dtype))

    def back(part: nn.Module, *_: Any) -> None:
        for name, data in kept.pop(part, {}).items():
            part.get_parameter(name).data = data

    parts = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    handles = [part.register_forward_pre_hook(wider) for part in parts]
    handles += [part.register_forward_hook(back, always_call=True) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
