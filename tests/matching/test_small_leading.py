"""Leading parts in the compiled core: factors in the place of weights, and the same search as by torch."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from lmc_fast import _native
from lmc_fast.matching.engine import descent as descents
from lmc_fast.matching.engine import leading
from lmc_fast.matching.engine.layout import Layout
from lmc_fast.matching.engine.leading import Factors
from lmc_fast.matching.engine.small import SmallDescent

from .test_small import TAKEN, by_torch, pair_of


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Weights of small models are factored too; the names of those that the core was given, by search."""
    found: list[list[str]] = []

    class Watched(SmallDescent):
        def __init__(self, layout: Layout, factors: Mapping[str, Factors]) -> None:
            found.append(list(factors))
            super().__init__(layout, factors)

    monkeypatch.setattr(leading, "RANK", 3)
    monkeypatch.setattr(leading, "LONGER", 1)
    for limit in ("WORTH_LEADING", "WORTH_FACTORING"):
        monkeypatch.setattr(leading, limit, 1e9)
    monkeypatch.setattr(leading.LeadingGains, "stand_out", lambda *_: True)
    monkeypatch.setattr(descents, "SmallDescent", Watched)
    return found


@pytest.mark.parametrize("name", [name for name in TAKEN if name != "mlp-of-one-unit"])
def test_the_core_goes_where_torch_goes(name: str, factored: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, spec = pair_of(TAKEN[name])
    match = lmc.weight_matching(a, b, spec)
    assert len(factored) == 1 and factored[0]
    by_torch(monkeypatch)
    other = lmc.weight_matching(a, b, spec)
    assert len(factored) == 1 and match.converged
    assert match.permutations == other.permutations and match.objective == other.objective


def test_leading_parts_are_what_decides(factored: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a search over them leads is not where descent over the whole of the weights leads."""
    a, b, spec = pair_of(TAKEN["wide-mlp"])
    match = lmc.weight_matching(a, b, spec, max_sweeps=1)
    assert match.permutations != lmc.weight_matching(a, b, spec, max_sweeps=1, search="coordinate_descent").permutations


SIZES = {"p": 4, "q": 6, "r": 5}
RANK = 2


def cores(axis: int) -> tuple[_native.Descent, _native.Descent, list[Tensor]]:
    """A search over Q C along this axis of a weight [p, q, r, 3 fixed], and one over the weight that it makes.

    A vector for each group beside it. All are whole numbers, no sum of which is rounded.
    """
    generator = torch.Generator().manual_seed(axis)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    shape = [*SIZES.values(), 3]
    rest = [size for d, size in enumerate(shape) if d != axis]
    qs, cs = [draw(shape[axis], RANK) for _ in range(2)], [draw(RANK, *rest) for _ in range(2)]
    wholes = [torch.tensordot(q, c, 1).movedim(0, axis).contiguous() for q, c in zip(qs, cs, strict=True)]
    vectors = [[draw(size) for _ in range(2)] for size in SIZES.values()]
    held = [*qs, *cs, *wholes, *(side for both in vectors for side in both)]

    def axes_of(numbers: list[int], tensor: Tensor) -> list[tuple[int, int, int, list[tuple[int, int, int]]]]:
        return [
            (size, step, step, [(number, 1, 1) if number >= 0 else (-1, 1, size)])
            for number, size, step in zip(numbers, tensor.shape, tensor.stride(), strict=True)
        ]

    parameters = [(*(whole.data_ptr() for whole in wholes), axes_of([0, 1, 2, -1], wholes[0]))]
    parameters += [(*(side.data_ptr() for side in both), axes_of([k], both[0])) for k, both in enumerate(vectors)]
    groups = [
        (size, 0.0, [(0, k, 0, 1, 1, 0, 1), (1 + k, 0, 0, 1, 1, 0, 1)], [other for other in range(3) if other != k])
        for k, size in enumerate(SIZES.values())
    ]
    factors = [(0, axis, RANK, [side.data_ptr() for side in (*qs, *cs)])]
    whole, product = (_native.Descent(parameters, groups, 0.7, 4.0, *more) for more in ((), (factors,)))
    return whole, product, held


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_factors_stand_for_their_product(axis: int) -> None:
    whole, product, held = cores(axis)
    visits = [(0, [1]), (1, [0, 1]), (2, [0])]
    for core in (whole, product):
        core.anchor(visits)
    for sweep in range(3):
        found = [[core.choice(group).tolist() for group in range(3)] for core in (whole, product)]
        assert found[0] == found[1], f"after {sweep} sweeps"
        steps = [core.sweep([[0], [1], [2]]) for core in (whole, product)]
        # A correction is no sum of its own: a tie may fall elsewhere, and nothing else may.
        assert steps[0] == steps[1]
        if not steps[0][3]:
            break
    assert product.check() == [] and held
    assert any(product.choice(group).tolist() != sorted(product.choice(group)) for group in range(3))


@pytest.mark.parametrize(
    "factors",
    [(7, 0, RANK), (-1, 0, RANK), (0, 4, RANK), (0, -1, RANK), (0, 0, 0)],
    ids=["parameter", "no-parameter", "axis", "no-axis", "rank"],
)
def test_factors_that_do_not_fit_are_refused(factors: tuple[int, int, int]) -> None:
    side = torch.zeros(3)
    parameters = [(side.data_ptr(), side.data_ptr(), [(3, 1, 1, [(0, 1, 1)])])]
    groups = [(3, 0.0, [(0, 0, 0, 1, 1, 0, 1)], [])]
    with pytest.raises(ValueError, match="factors do not fit"):
        _native.Descent(parameters, groups, 0.7, 4.0, [(*factors, [side.data_ptr()] * 4)])
