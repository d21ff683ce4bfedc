"""What goes to and from a GPU: in what order, how much of it together, and what the host knows without asking."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lmc_fast as lmc
from benchmarks import gpu_pairs
from lmc_fast._chunks import numbers
from lmc_fast._tensors import check_indices_at_once
from lmc_fast.matching.engine import descent as engine
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.transfers import Leaving, moved_between, placed
from lmc_fast.ops.permuted_dot import overlap, overlaps, permuted_dot, permuted_dots


def test_what_was_placed_is_known_on_the_host() -> None:
    """On a device that holds no numbers nothing could be asked."""
    old, new = np.arange(9), np.arange(9)
    new[[2, 5, 7]] = [5, 7, 2]
    there = [placed(index, torch.device("meta")) for index in (old, new)]
    assert moved_between(*there).shape == (3,) and moved_between(there[0], there[0]).shape == (0,)
    here = [placed(index, torch.device("cpu")) for index in (old, new)]
    assert moved_between(*here).tolist() == [2, 5, 7]
    assert np.shares_memory(here[0].numpy(), old)


def test_a_tensor_on_the_host_has_arrived() -> None:
    tensor = torch.randn(3, 4)
    assert torch.equal(Leaving(tensor).arrived(), tensor)


@pytest.mark.gpu
@pytest.mark.parametrize("most", [0, 1 << 30], ids=["through pageable memory", "through pinned memory"])
def test_a_tensor_arrives_as_it_was_when_it_left(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmc_fast.matching.engine import transfers

    monkeypatch.setattr(transfers, "MOST_PINNED", most)
    tensor = torch.randn(1000, 1000, device="cuda")
    was = tensor.clone()
    leaving = Leaving(tensor)
    tensor.zero_()
    assert torch.equal(leaving.arrived(), was.cpu())


def test_gains_travel_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = gpu_pairs.pair_of("mlp", *gpu_pairs.mlp(10, 5), torch.float32, torch.device("cpu"))
    start = lmc.Permutations.identity(pair.spec)
    descent = CoordinateDescent(pair.spec, pair.a, pair.b, dict.fromkeys(pair.a, 1.0), start, (), None)
    roots = list(pair.spec.roots)
    monkeypatch.setattr(engine, "IN_FLIGHT", 800)
    assert descent._waves(roots) == [roots]
    there = SimpleNamespace(a=SimpleNamespace(device=torch.device("cuda")), count=10)
    monkeypatch.setattr(descent.gains, "uses", lambda units: [there])
    # 400 bytes each.
    assert descent._waves(roots) == [roots[:2], roots[2:]]
    monkeypatch.setattr(engine, "IN_FLIGHT", 1)
    assert descent._waves(roots) == [[root] for root in roots]


def test_waves_end_where_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = gpu_pairs.pair_of("resnet", *gpu_pairs.resnet20(4), torch.float32, torch.device("cpu"))
    expected = lmc.weight_matching(pair.a, pair.b, pair.spec)
    monkeypatch.setattr(CoordinateDescent, "_waves", lambda self, roots: [[root] for root in roots])
    found = lmc.weight_matching(pair.a, pair.b, pair.spec)
    assert found.objective == expected.objective
    for name, choice in expected.permutations.choices.items():
        assert (found.permutations.choices[name] == choice).all()


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_sums_of_many_are_those_of_each(backend: str) -> None:
    shapes = [(5,), (3, 4), (2, 3, 4), (0, 3)]
    pairs = [(torch.randn(shape), torch.randn(shape)) for shape in shapes]
    items = [(a, b, tuple(torch.randperm(size) for size in a.shape)) for a, b in pairs]
    assert permuted_dots(items, backend=backend) == [permuted_dot(*item, backend=backend) for item in items]
    assert overlaps(pairs, backend=backend) == [overlap(*pair, backend=backend) for pair in pairs]
    assert permuted_dots([]) == [] and overlaps([]) == []
    with pytest.raises(IndexError, match=r"gathers\[1\] must hold indices of its dimension"):
        permuted_dots([items[0], (*pairs[1], (None, torch.full((4,), 4)))], backend="torch")


def test_numbers_come_in_the_order_of_their_tensors() -> None:
    tensors = [torch.tensor([1, 2]), torch.tensor(0.5), torch.ones(0), torch.tensor([3.0], dtype=torch.bfloat16)]
    assert numbers(tensors) == [[1.0, 2.0], [0.5], [], [3.0]]


def test_indices_are_checked_together() -> None:
    check_indices_at_once([("one", torch.tensor([1, 0])), ("none", torch.empty(0, dtype=torch.int64))])
    with pytest.raises(IndexError, match="two must hold"):
        check_indices_at_once([("one", torch.tensor([1, 0])), ("two", torch.tensor([0, 2]))])


@pytest.mark.gpu
def test_indices_on_a_gpu_are_named_where_they_are_wrong() -> None:
    fine, wrong = torch.arange(5, device="cuda"), torch.tensor([0, 5, -1], device="cuda")
    check_indices_at_once([("one", fine), ("two", fine)])
    with pytest.raises(IndexError, match="three must hold"):
        check_indices_at_once([("one", fine), ("three", wrong)])
