"""What owners' pairs are worth is known before what lies inside the chosen ones is looked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.matching.engine import elements
from lmc_fast.matching.engine.elements import best_elements
from lmc_fast.symmetry.kinds import KINDS, orthogonal
from lmc_fast.symmetry.kinds.polar import nuclear_norm, polar_factor

from .test_elements import factors_of

SIZES = {"outer": 3, "head": 4, "value": 2}


def deep_spec() -> PermutationSpec:
    """Units that own heads that own what turns."""
    value = Segment("value")
    entries = 3 * 4 * 2
    return PermutationSpec.from_axes(
        {"w": (Segment("outer", inner=(Segment("head", inner=(value,)),)), None)},
        [
            Group("outer", SIZES["outer"]),
            Group("head", SIZES["head"], owner="outer"),
            Group("value", SIZES["value"], owner="head", kind="orthogonal"),
        ],
        model={"w": torch.zeros(entries, 2)},
    )


def test_the_same_is_found_as_by_looking_into_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = deep_spec()
    keys: list[tuple[str, ...]] = [("outer", "head"), ("outer", "head", "value")]
    for seed in range(4):
        factors, current = factors_of(spec, keys, seed), Transforms.random(spec, seed).elements
        found, gained = best_elements(spec, "outer", factors, current)
        with monkeypatch.context() as patched:
            patched.setattr(elements, "FEW", 100)
            wanted, by_all = best_elements(spec, "outer", factors, current)
        assert gained == pytest.approx(by_all, rel=1e-12)
        for name, element in wanted.items():
            assert torch.allclose(found[name].double(), element.double(), atol=1e-12), name


def test_polar_factors_are_those_of_chosen_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, seen = deep_spec(), []

    def counted(gain: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(gain.shape[:-2].numel())
        return polar_factor(gain)

    monkeypatch.setattr(orthogonal, "polar_factor", counted)
    factors = factors_of(spec, [("outer", "head", "value")])
    best_elements(spec, "outer", factors, Transforms.identity(spec).elements)
    # Of the 4 x 4 pairs of heads in each of 3 x 3 pairs of their owners, 4.
    assert seen == [3 * 3 * 4]


@pytest.mark.parametrize("size", [0, 1, 2, 63])
def test_the_nuclear_norm_is_what_the_polar_factor_reaches(size: int) -> None:
    gain = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    gain[:, 1, :, size // 2 :] = 0.0
    found = nuclear_norm(gain)
    assert found is not None and found.shape == (2, 3)
    assert torch.allclose(found, polar_factor(gain)[1], rtol=1e-12)


def test_other_kinds_have_their_elements_with_their_values() -> None:
    gain = torch.randn(2, 3, 1, 3, 1, dtype=torch.float64)
    for name in ("permutation", "signed", "orthogonal_keeping_ones"):
        assert KINDS[name].most(gain) is None, name
    assert nuclear_norm(torch.empty(2, 3, 3, device="meta")) is None
