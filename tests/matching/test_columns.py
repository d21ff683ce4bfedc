"""Gains of small groups are those of large ones, corrected or made anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import gpu_pairs, models
from lmc_fast.matching.engine import columns
from lmc_fast.matching.engine.descent import CoordinateDescent

MODELS: dict[str, Callable[[], tuple[gpu_pairs.Shapes, lmc.PermutationSpec]]] = {
    "mlp": lambda: gpu_pairs.mlp(24, 10),
    "convolutions": lambda: gpu_pairs.vgg16(2),
    "a residual stream": lambda: gpu_pairs.resnet20(4),
}


def descent_of(pair: gpu_pairs.DevicePair) -> CoordinateDescent:
    start = lmc.Permutations.identity(pair.spec)
    return CoordinateDescent(pair.spec, pair.a, pair.b, dict.fromkeys(pair.a, 1.0), start, (), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_gains_are_those_of_large_groups(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = gpu_pairs.pair_of(name, *MODELS[name](), dtype, torch.device("cpu"))
    small = descent_of(pair)
    monkeypatch.setattr(columns, "MOST_ENTRIES", 0)
    large = descent_of(pair)
    rng = np.random.default_rng(0)
    choices = dict(small.choices)
    for step in range(6):
        monkeypatch.setattr(columns, "MOST_ENTRIES", 1 << 19)
        for root in pair.spec.roots:
            gains = []
            for each in (small, large):
                monkeypatch.setattr(columns, "MOST_ENTRIES", 1 << 19 if each is small else 0)
                gain = each.gains.gain(root)
                assert gain is not None
                gains.append(gain.double().numpy().copy())
            assert np.allclose(*gains, rtol=0, atol=1e-5 * np.abs(gains[1]).max())
        assert all(one is not None for one in small.gains._columns.values())
        assert all(one is None for one in large.gains._columns.values())
        # Two units of one group change places, which is corrected; or all of them, which is not.
        root = pair.spec.roots[step % len(pair.spec.roots)]
        order = choices[root].copy()
        places = rng.permutation(len(order))[: 2 if step % 3 else len(order)]
        order[places] = order[np.roll(places, 1)]
        choices[root] = order
        for each in (small, large):
            each.choose(root, {root: order})
    assert small.gains.off(small.norms) == set()
    kept = next(iter(small.gains._kept.values()))
    kept.gain[0, 0] += 1.0
    kept.corrected = 1.0
    assert len(small.gains.off(small.norms)) == 1


def test_weights_that_change_are_laid_out_again() -> None:
    pair = gpu_pairs.pair_of("mlp", *MODELS["mlp"](), torch.float32, torch.device("cpu"))
    descent = descent_of(pair)
    before = descent.gains.gain("p0")
    assert before is not None
    before = before.clone()
    for tensor in pair.b.values():
        tensor.mul_(2)
    descent.gains.forget_all()
    after = descent.gains.gain("p0")
    assert after is not None and torch.allclose(after, 2 * before)


def test_groups_inside_others_go_the_general_way() -> None:
    a, b = (models.randomise(models.GroupedQueryAttention(), seed=seed) for seed in (1, 2))
    spec = models.GroupedQueryAttention.spec().bind(a)
    start = lmc.Permutations.identity(spec)
    tensors = [dict(model.state_dict()) for model in (a, b)]
    descent = CoordinateDescent(spec, *tensors, dict.fromkeys(spec.axes, 1.0), start, (), None)
    for units, found in descent.leaves.items():
        descent.gains.gain(units)
        if any(leaf.beside for leaf in found):
            assert descent.gains._columns[units] is None


def test_a_search_ends_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = gpu_pairs.pair_of("mlp", *gpu_pairs.mlp(40, 30), torch.float64, torch.device("cpu"))
    found = lmc.weight_matching(pair.a, pair.b, pair.spec)
    monkeypatch.setattr(columns, "MOST_ENTRIES", 0)
    expected = lmc.weight_matching(pair.a, pair.b, pair.spec)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    for name, choice in expected.permutations.choices.items():
        assert (found.permutations.choices[name] == choice).all()
