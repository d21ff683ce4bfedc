"""What holds of groups on an axis wherever their segments lie: everyone who asks moves the same entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.symmetry.mixing import mixed
from lmc_fast.symmetry.placing import placed
from lmc_fast.symmetry.transforms import Transforms
from lmc_fast.symmetry.views import axis_orbits, leaves

__all__ = ["Laws", "spec_on", "whole", "without_places"]


def spec_on(axis: tuple[Segment, ...], sizes: Mapping[str, int]) -> PermutationSpec:
    """On "w" this axis, and each group on a parameter of its own; the group "pair" owns "each"."""
    groups = [Group(name, size, owner="pair" if name == "each" else None) for name, size in sizes.items()]
    axes = {"w": (axis, None)} | {name: (name,) for name in sizes}
    entries = sum(place.length for place in placed(whole(axis), sizes))
    state = {"w": torch.zeros(entries, 2)} | {name: torch.zeros(size) for name, size in sizes.items()}
    state["each"] = torch.zeros(sizes["pair"] * sizes["each"])
    return PermutationSpec.from_axes(axes, groups, model=state)


def whole(axis: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """With the owner around the units that it owns."""
    return tuple(
        replace(each, group="pair", outer=1, inner=(without_places(each),)) if each.group == "each" else each
        for each in axis
    )


def without_places(segment: Segment) -> Segment:
    """The segment as it is end to end with others."""
    return replace(segment, step=1, runs=())


class Laws:
    """To be parametrised by `name`.

    Attributes:
        SPECS: by name.
    """

    SPECS: Mapping[str, PermutationSpec]

    def _of(self, name: str) -> tuple[PermutationSpec, Tensor]:
        spec = self.SPECS[name]
        size = len(lmc.Permutations.identity(spec).index("w", 0))
        return spec, torch.randn(size, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def test_permuted_and_turned_and_mixed(self, name: str) -> None:
        spec, w = self._of(name)
        chosen = lmc.Permutations.random(spec, 5)
        moved = chosen.apply_to("w", w)
        assert not torch.equal(moved, w)
        turned = Transforms(spec, {group: chosen[group] for group in spec.groups})
        assert torch.equal(turned.apply_to("w", w), moved)
        matrices = {
            group: torch.nn.functional.one_hot(chosen[group].reshape(-1, spec.sizes[group]), spec.sizes[group]).double()
            for group in spec.groups
        }
        # Of owned units by the owner's unit before that is moved.
        matrices["each"] = matrices["each"][chosen.inverse()["pair"]]
        assert torch.equal(mixed(spec, "w", w, matrices), moved)

    def test_leaves_are_all_entries_of_groups(self, name: str) -> None:
        spec, w = self._of(name)
        numbers = torch.arange(len(w))[:, None].expand(w.shape)
        for root in spec.roots:
            count = np.zeros(len(w), dtype=int)
            for leaf in leaves(spec, root):
                if leaf.parameter == "w":
                    count += np.bincount(leaf.view(numbers)[..., 0].flatten(), minlength=len(w))
            tree = [group for group in spec.groups if spec.root_of(group) == root]
            labels = axis_orbits(spec, spec.axes["w"][0].segments, tree)
            assert (count == 1).tolist() == (np.bincount(labels)[labels] > 1).tolist()

    def test_orbits_are_where_entries_can_go(self, name: str) -> None:
        spec, _ = self._of(name)
        labels = axis_orbits(spec, spec.axes["w"][0].segments, list(spec.groups))
        assert sorted(set(labels.tolist())) == list(range(len(set(labels.tolist()))))
        for seed in range(5):
            index = lmc.Permutations.random(spec, seed).index("w", 0).numpy()
            assert (labels[index] == labels).all()

    def test_there_and_back_as_text(self, name: str) -> None:
        spec, _ = self._of(name)
        assert PermutationSpec.from_json(spec.to_json()) == spec
