"""Many models by weighted entries: each over the reference, as two are; no other method takes them."""

from __future__ import annotations

import pytest
import torch

import lmc_fast as lmc

from .test_entry_weights import SPEC, drawn


@pytest.mark.parametrize("weighting", ["sum", "product"])
@pytest.mark.parametrize("reference", [0, 1])
def test_each_lies_over_the_reference_as_two_would(reference: int, weighting: str) -> None:
    models, weights = [drawn(m) for m in range(3)], [drawn(m, True) for m in (10, 11, 12)]
    many = lmc.match_many(
        models, SPEC, method="pairwise", reference=reference, entry_weights=weights, entry_weighting=weighting
    )
    plain = lmc.match_many(models, SPEC, method="pairwise", reference=reference)
    identity = lmc.Permutations.identity(SPEC.bind(models[0]))
    assert many.converged and many.permutations[reference] == identity
    for m in range(3):
        if m != reference:
            given = (weights[reference], weights[m])
            alone = lmc.weight_matching(
                models[reference], models[m], SPEC, entry_weights=given, entry_weighting=weighting
            )
            assert many.permutations[m] == alone.permutations
    assert many.permutations != plain.permutations


def test_it_goes_on_from_where_it_is_told() -> None:
    models, weights = [drawn(m) for m in range(3)], [drawn(m, True) for m in (10, 11, 12)]
    found = lmc.match_many(models, SPEC, method="pairwise", entry_weights=weights)
    again = lmc.match_many(models, SPEC, method="pairwise", init=found, entry_weights=weights)
    # One sweep for each of the two, which moves nothing: what was found is where no group can gain.
    assert again.permutations == found.permutations and [step.moved for step in again.history] == [0, 0]


def test_what_does_not_take_them_says_so() -> None:
    models, weights = [drawn(0), drawn(1)], [drawn(10, True), drawn(11, True)]
    with pytest.raises(ValueError, match="entry_weights must come with method='pairwise', which weighs entries, got"):
        lmc.match_many(models, SPEC, entry_weights=weights)
    with pytest.raises(ValueError, match="entry_weights must be a sequence of 2 mappings"):
        lmc.match_many(models, SPEC, method="pairwise", entry_weights=weights[:1])
    weights[1]["w2"] = -torch.ones_like(weights[1]["w2"])
    with pytest.raises(ValueError, match=r"entry_weights\[1\]\['w2'\]"):
        lmc.match_many(models, SPEC, method="pairwise", reference=1, entry_weights=weights)
