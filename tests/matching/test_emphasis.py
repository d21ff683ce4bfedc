"""Weights whose leading parts count more, and the search that looks at them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.engine.emphasis import RANK, TIMES, emphasised

from . import test_turning as turned
from .test_gains import KINDS


def with_values(values: Tensor, columns: int, seed: int = 0) -> Tensor:
    """[rows, columns] with these singular values, as many as rows."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64)).Q
    return (u * values) @ v.T


def standing_out(rows: int, count: int) -> Tensor:
    """Singular values, the first `count` of which are far beyond the others."""
    return torch.cat([torch.linspace(9.0, 5.0, count), torch.full((rows - count,), 0.05)]).double()


def only(tensor: Tensor, *axes: str | None) -> Tensor:
    """What becomes of a weight with these axes."""
    spec = lmc.PermutationSpec.from_axes({"weight": axes}).bind({"weight": tensor})
    return emphasised(spec, {"weight": tensor}, ["weight"])["weight"]


@pytest.mark.parametrize("shape", [(70, 90), (20, 24), (100, 20), (7, 50)], ids=str)
def test_the_leading_singular_values_count_three_times(shape: tuple[int, int]) -> None:
    rows, columns = min(shape), max(shape)
    leading = min(RANK, rows)
    values = standing_out(rows, leading)
    matrix = with_values(values, columns)
    matrix = matrix if shape[0] == rows else matrix.T
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    wanted = (u * (s * torch.where(torch.arange(rows) < leading, 3.0, 1.0))) @ vt
    before = matrix.clone()
    torch.testing.assert_close(only(matrix, "out", "in"), wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(matrix, before), "the caller's weight was changed"
    assert TIMES == 3.0


def test_a_convolution_is_a_matrix_of_its_outputs() -> None:
    matrix = with_values(standing_out(40, 12), 15 * 9)
    wanted = only(matrix, "out", "in").reshape(40, 15, 3, 3)
    torch.testing.assert_close(only(matrix.reshape(40, 15, 3, 3), "out", "in", None, None), wanted)


@pytest.mark.parametrize(
    "tensor", [torch.arange(5.0), torch.zeros(4, 0), torch.zeros(6, 5)], ids=["vector", "empty", "zeros"]
)
def test_vectors_and_what_holds_nothing_stay(tensor: Tensor) -> None:
    made = only(tensor, *("out", None)[: tensor.ndim])
    assert torch.equal(made, tensor) and made.shape == tensor.shape


def test_half_types_come_back_in_what_they_are_summed_in() -> None:
    matrix = with_values(standing_out(40, 5), 50)
    made = only(matrix.bfloat16(), "out", "in")
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, only(matrix.bfloat16().double(), "out", "in").float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_weight_is_permuted_likewise(kind: str) -> None:
    build, spec_of = KINDS[kind]
    model = models.randomise(build(), 0).double()
    spec = spec_of(model).bind(model)
    truth = lmc.Permutations.random(spec, 1)
    names = [name for name, _ in model.named_parameters()]
    state, moved = model.state_dict(), truth.apply(model).state_dict()
    made, again = (emphasised(spec, tensors, names) for tensors in (state, moved))
    # Vectors alone are as they were.
    assert {name for name in made if torch.equal(made[name], state[name])} == {n for n in names if state[n].ndim == 1}
    wanted = truth.apply(state | made)
    for name in names:
        torch.testing.assert_close(again[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found(kind: str) -> None:
    build, spec_of = KINDS[kind]
    for seed in range(3):
        model = models.randomise(build(), seed)
        spec = spec_of(model).bind(model)
        truth = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(model, truth.inverse().apply(model), spec, search="leading")
        assert match.permutations == truth and match.l2_after < 1e-5 * match.l2_before


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two MLPs whose weights have leading parts of their own."""
    found = []
    for seed in (0, 10):
        sizes = [30, 45, 40, 12]
        found.append(
            {
                f"{k}.weight": with_values(standing_out(min(rows, columns), 4), max(rows, columns), seed + k)
                .reshape(rows, columns)
                .float()
                for k, (columns, rows) in enumerate(itertools.pairwise(sizes))
            }
        )
    return found[0], found[1]


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a)


@pytest.mark.parametrize("init", ["anchored", "identity", "random"])
def test_it_is_weight_matching_of_such_weights(init: str, states: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    a, b = states
    spec = architectures.mlp(a).bind(a)
    match = lmc.weight_matching(a, b, spec, search="leading", init=init, restarts=2)
    made = [emphasised(spec, state, state) for state in (a, b)]
    same = lmc.weight_matching(*made, spec, search="coordinate_descent", init=init, restarts=2)
    assert match.permutations == same.permutations and match.converged
    assert [sweep.moved for sweep in match.history] == [sweep.moved for sweep in same.history]
    assert match.history[-1].objective == pytest.approx(same.objective)
    assert match.permutations != lmc.weight_matching(a, b, spec, init=init, restarts=2).permutations
    # What is told of the weights themselves.
    moved = match.apply(b)
    assert match.objective == pytest.approx(inner(a, moved))
    assert match.l2_after == pytest.approx(math.sqrt(inner(a, a) + inner(b, b) - 2 * inner(a, moved)))
    assert match.method == "weight matching, leading parts" and match.method in str(match)


def test_parameters_count_and_groups_stay_as_they_are_told(
    states: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    a, b = states
    spec = architectures.mlp(a).bind(a)
    name = next(iter(spec.groups))
    weights = {"0.weight": 0.0, "2.weight": 2.5}
    match = lmc.weight_matching(a, b, spec, search="leading", weights=weights, freeze=[name])
    made = [emphasised(spec, state, state) for state in (a, b)]
    same = lmc.weight_matching(*made, spec, search="coordinate_descent", weights=weights, freeze=[name])
    assert match.permutations == same.permutations
    assert torch.equal(torch.as_tensor(match.permutations[name]), torch.arange(spec.sizes[name]))
    moved = match.apply(b)
    one = inner({"1": a["1.weight"]}, {"1": moved["1.weight"]})
    assert match.objective == pytest.approx(one + 2.5 * inner({"2": a["2.weight"]}, {"2": moved["2.weight"]}))


def test_models_that_lie_over_each_other_stay() -> None:
    model = models.randomise(models.small_resnet(), 0)
    match = lmc.weight_matching(model, model, architectures.resnet(model), search="leading")
    assert match.permutations.moved == 0 and match.l2_after == 0.0


def test_of_other_kinds_it_is_coordinate_descent() -> None:
    spec, a = turned.attention_spec()
    b = turned.another(a)
    found = [lmc.weight_matching(a, b, spec, search=search) for search in ("leading", "coordinate_descent")]
    assert found[0].choice == found[1].choice and found[0].objective == found[1].objective
