"""Specs are kept by names and shapes, and what these do not tell is looked at in every call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.compat.git_re_basin_pytorch import permutation_spec_from_axes_to_perm, weight_matching
from lmc_fast.compat.specs import _of_shapes, engine_spec

AXES = {"a.weight": ("P", None), "b.weight": (None, "P"), "c.weight": (None, None)}


def state(units: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (units, units), "b.weight": (units, units), "c.weight": (2, 3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_models_of_the_same_shapes_share_a_spec() -> None:
    first = engine_spec(AXES, state(4, 0))
    before = _of_shapes.cache_info().misses
    assert engine_spec(dict(AXES), state(4, 1)) is first
    assert _of_shapes.cache_info().misses == before
    # Other shapes, other axes and other ways to read them are other specs.
    assert engine_spec(AXES, state(5, 0)).sizes == {"P": 5}
    assert engine_spec({**AXES, "b.weight": (None, None)}, state(4, 0)) != first
    wide = {**state(4, 0), "b.weight": torch.zeros(4, 8)}
    assert engine_spec(AXES, wide, flattened=True).sizes == {"P": 4}
    with pytest.raises(ValueError, match="has 8 entries"):
        engine_spec(AXES, wide)


def test_a_tensor_with_two_names_is_seen_though_shapes_were() -> None:
    ps = permutation_spec_from_axes_to_perm(AXES)
    a, b = state(4, 0), state(4, 1)
    weight_matching(ps, a, b, silent=True)
    tied = {**a, "b.weight": a["a.weight"]}
    with pytest.raises(ValueError, match="one tied tensor"):
        engine_spec(AXES, tied)
    with pytest.raises(ValueError, match="one tied tensor"):
        weight_matching(ps, tied, tied, silent=True)


def test_a_line_for_every_sweep_of_all_starts(capsys: pytest.CaptureFixture[str]) -> None:
    ps = permutation_spec_from_axes_to_perm(AXES)
    quiet = weight_matching(ps, state(4, 0), state(4, 1), silent=True)
    assert capsys.readouterr().out == ""
    loud = weight_matching(ps, state(4, 0), state(4, 1))
    lines = capsys.readouterr().out.splitlines()
    for start in ("identity", "anchored"):
        told = [line for line in lines if f"/{start}: " in line]
        assert told and all(line.startswith(f"{k}/{start}: weight matching sweep ") for k, line in enumerate(told))
    assert torch.equal(quiet["P"], loud["P"])
