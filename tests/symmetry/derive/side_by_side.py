"""Small modules derived together, each looked at by itself: one trace for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

__all__ = ["Between", "Case", "Derived", "asked", "derived", "side_by_side"]


class Between(nn.Module):
    """[batch, 4] -> 12 units -> what a function makes of them -> 3 numbers."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 12) -> None:
        super().__init__()
        self.up, self.between = nn.Linear(4, width), between
        self.down = nn.Linear(int(between(torch.ones(5, width)).flatten(1).shape[1]), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(self.up(x)).flatten(1))


@dataclass(frozen=True)
class Case:
    """A module, inputs for it, and by hand the sizes of groups without an owner, and of those with one."""

    module: nn.Module
    inputs: Any
    roots: tuple[int, ...]
    owned: tuple[int, ...] = ()


class _Together(nn.Module):
    def __init__(self, cases: Mapping[str, Case]) -> None:
        super().__init__()
        self.each = nn.ModuleList(case.module for case in cases.values())

    def forward(self, *inputs: Any) -> list[Any]:
        return [module(*of) for module, of in zip(self.each, inputs, strict=True)]


@dataclass(frozen=True)
class Derived:
    """The spec of all cases, and their names in order."""

    spec: lmc.PermutationSpec
    names: tuple[str, ...]

    def sizes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of one case the sizes of groups without an owner, and of those with one."""
        mine = {group for axes in self.axes(name).values() for axis in axes for group in axis.groups}
        groups = [self.spec.groups[group] for group in mine]
        sizes = [sorted(g.size or 0 for g in groups if (g.owner is None) == is_root) for is_root in (True, False)]
        return tuple(sizes[0]), tuple(sizes[1])

    def axes(self, name: str) -> dict[str, tuple[lmc.Axis, ...]]:
        """The axes of one case's parameters."""
        prefix = f"each.{self.names.index(name)}."
        return {key.removeprefix(prefix): axes for key, axes in self.spec.axes.items() if key.startswith(prefix)}

    def reasons(self, name: str) -> str:
        """Why entries of one case's parameters stay, in one text."""
        prefix = f"each.{self.names.index(name)}."
        return "\n".join(
            r for fixed in self.spec.explain().fixed if fixed.parameter.startswith(prefix) for r in fixed.reasons
        )


def side_by_side(cases: Mapping[str, Case]) -> tuple[nn.Module, tuple[Any, ...]]:
    """One module of all of them, and its inputs."""
    inputs = tuple(case.inputs if isinstance(case.inputs, tuple) else (case.inputs,) for case in cases.values())
    return _Together(cases), inputs


def asked(cases: Mapping[str, Case], request: pytest.FixtureRequest) -> dict[str, Case]:
    """Those of the cases of a file that run, by the tests' argument `name`; all, where none is asked for by itself."""
    here = (item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path)
    names = {item.callspec.params.get("name") for item in here if hasattr(item, "callspec")}
    return {name: case for name, case in cases.items() if name in names} or dict(cases)


def derived(cases: Mapping[str, Case], **options: Any) -> Derived:
    """Derive the spec of all cases together, tried on the model."""
    return Derived(lmc.derive_spec(*side_by_side(cases), **options), tuple(cases))
