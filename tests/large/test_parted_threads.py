"""Gains over several parts come out the same by any number of threads."""

from __future__ import annotations

import pytest
import torch

from lmc_fast import Group, Permutations, PermutationSpec
from lmc_fast.large.parted import PartedGains
from lmc_fast.large.shares import shared_out
from lmc_fast.large.team import Team
from lmc_fast.matching.engine import products
from lmc_fast.matching.engine.descent import CoordinateDescent

UNITS = 260
SHAPES = {"in.weight": (UNITS, 30), "out.weight": (20, UNITS), "bias": (UNITS,)}
PARTS = [["in.weight"], ["out.weight"], ["bias"]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_gain_over_parts_is_the_same_by_any_number_of_threads(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SMALL", 0.0)
    generator = torch.Generator().manual_seed(0)
    a, b = ({n: torch.randn(shape, generator=generator).to(dtype) for n, shape in SHAPES.items()} for _ in range(2))
    axes = {"in.weight": ("units", None), "out.weight": (None, "units"), "bias": ("units",)}
    spec = PermutationSpec.from_axes(axes, [Group("units", UNITS)]).bind(a)
    search = CoordinateDescent(spec, a, b, dict.fromkeys(a, 1.0), Permutations.identity(spec), (), None, room=0)
    wanted = a["in.weight"].double() @ b["in.weight"].double().T + a["out.weight"].double().T @ b["out.weight"].double()
    wanted += torch.outer(a["bias"].double(), b["bias"].double())
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            gain = PartedGains(search, shared_out(PARTS, a, 1), Team()).gain("units")
            assert gain is not None
            found[threads] = gain.clone()
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1].double(), wanted, rtol=1e-5, atol=1e-4)
    assert torch.equal(found[2], found[1])
    assert torch.equal(found[4], found[1])
