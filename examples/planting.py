"""A second network whose right matching is known: the first, with its units in random places, and noise."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

import lmc_fast as lmc

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def planted_pair(model: ModuleT, spec: lmc.PermutationSpec, noise: float = 0.1) -> tuple[ModuleT, lmc.Permutations]:
    """The model with all units moved, noise of a share of each weight's deviation added, and where units went."""
    moved = lmc.Permutations.random(spec, seed=1)
    other = moved.apply(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=generator))
    return other, moved


def recovered(match: lmc.Matching, moved: lmc.Permutations) -> str:
    """How many groups matching has laid back to where they came from."""
    back, spec = match.permutations.after(moved), match.permutations.spec
    still = lmc.Permutations.identity(spec)
    right = sum(torch.equal(back.units(name), still.units(name)) for name in spec.groups)
    return f"{right} of {len(spec.groups)} groups are back where they came from"
