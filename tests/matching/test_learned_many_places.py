"""Several models at once whose discrete groups follow the loss while others turn."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast import PermutationSpec, Transforms

from .test_learned_places import loss_fn, made


def three_of() -> tuple[list[nn.Module], PermutationSpec, list[tuple[torch.Tensor, torch.Tensor]], list[Transforms]]:
    """A model, two of the same function, batches, and a start with three units of the second misplaced."""
    model, other, spec, batches, start = made(signs=False)
    return [model, other, other], spec, batches, [Transforms.identity(spec), start, Transforms.random(spec, 3)]


@pytest.mark.slow
def test_units_find_their_places_by_the_loss_between_all_models() -> None:
    models, spec, batches, starts = three_of()

    def learned(discrete: str) -> lmc.ManyMatching:
        return lmc.match_many(
            models,
            spec,
            method="learned",
            batches=batches,
            loss_fn=loss_fn,
            init=starts,
            steps=100,
            learning_rate=0.1,
            patience=20,
            discrete=discrete,
        )

    frozen, followed = learned("frozen"), learned("straight_through")
    _, misplaced, planted = (start["unit"] for start in starts)
    assert [torch.equal(many.permutations[1]["unit"], misplaced) for many in (frozen, followed)] == [True, False]
    assert all(torch.equal(many.permutations[2]["unit"], planted) for many in (frozen, followed))
    totals = []
    for many in (frozen, followed):
        moved_models = many.apply(models)
        totals.append(
            sum(
                lmc.loss_barrier(a, b, batches, loss_fn=loss_fn, lambdas=5).barrier
                for a, b in combinations(moved_models, 2)
            )
        )
    assert totals[1] < 0.6 * totals[0]
    x = batches[0][0]
    for model, moved_model in zip(models, followed.apply(models), strict=True):
        assert torch.allclose(moved_model(x), model(x), atol=1e-4)
    assert followed.method == "learned, excess, straight through" and frozen.method == "learned, excess"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discrete": "soft"}, "discrete must be one of 'frozen', 'straight_through', got 'soft'"),
        (
            {"method": "ste_mm", "discrete": "straight_through"},
            "discrete='straight_through' must come with method='learned', got 'ste_mm'",
        ),
    ],
    ids=["no such way", "another method"],
)
def test_what_discrete_takes(options: dict[str, str], message: str) -> None:
    models, spec, batches, _ = three_of()
    with pytest.raises(ValueError, match=message):
        lmc.match_many(models, spec, batches=batches, loss_fn=loss_fn, **{"method": "learned", **options})  # type: ignore[arg-type]
