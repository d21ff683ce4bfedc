"""Several models turned at once by the loss on the lines between all of them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import lmc_fast as lmc
from lmc_fast.experiments.transformers import mean_loss
from lmc_fast.matching import learned

from .test_learned import made, path_of, perturbed


def three(kind: str) -> tuple[list[torch.nn.Module], lmc.PermutationSpec, list[tuple[torch.Tensor, torch.Tensor]]]:
    model, spec, batches = made(kind)
    others = [perturbed(model, spec, seed, 0.6).apply(model) for seed in (3, 4)]
    return [others[0], model, others[1]], spec, batches


def test_all_lines_become_lower_and_the_reference_stays() -> None:
    models, spec, batches = three("layernorm")
    before = [path_of(a, b, batches) for a, b in combinations(models, 2)]
    many = lmc.match_many(
        models,
        spec,
        method="learned",
        reference=1,
        init="identity",
        batches=batches,
        loss_fn=mean_loss,
        steps=150,
        patience=10,
    )
    moved = many.apply(models)
    after = [path_of(a, b, batches) for a, b in combinations(moved, 2)]
    assert sum(after) < 0.4 * sum(before) and min(before) > 0.05
    assert many.permutations[1] == lmc.Transforms.identity(spec)
    for model, other in zip(models, moved, strict=True):
        for inputs, _ in batches:
            assert torch.allclose(model(inputs), other(inputs), atol=1e-4)
    assert many.method == "learned, excess"
    # The best look is the one that is kept.
    best = max(look.objective for look in many.history)
    assert -best == pytest.approx(sum(after) / 3, rel=1e-3, abs=1e-6)


def test_same_seed_same_result() -> None:
    models, spec, batches = three("rmsnorm")
    first, again = (
        lmc.match_many(
            models,
            spec,
            method="learned",
            init="identity",
            batches=batches,
            loss_fn=mean_loss,
            steps=5,
            mixing="random",
            seed=3,
            validation=batches[:1],
        )
        for _ in range(2)
    )
    assert list(first.permutations) == list(again.permutations)


def test_starts_are_activations_unless_others_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    models, spec, batches = three("rmsnorm")
    asked: list[object] = []
    planted = [lmc.Transforms.random(spec, seed) for seed in (0, 1, 2)]
    found = lmc.learned_matching(models[0], models[1], batches, spec, loss_fn=mean_loss, init="identity", tolerance=1e9)

    def watched(a: object, b: object, few: list[object], *rest: object, **options: object) -> lmc.Matching:
        asked.append((a, b, len(few)))
        return found

    monkeypatch.setattr(learned, "activation_matching", watched)
    common = {"method": "learned", "batches": batches, "loss_fn": mean_loss, "steps": 1}
    lmc.match_many(models, spec, **common)  # type: ignore[arg-type]
    assert asked == [(models[0], models[1], 3), (models[0], models[2], 3)]
    given = lmc.match_many(models, spec, init=planted, learning_rate=1e-12, **common)  # type: ignore[arg-type]
    by_weights = lmc.match_many(models, spec, init="anchored", learning_rate=1e-12, **common)  # type: ignore[arg-type]
    assert len(asked) == 2
    for (i, j), many in ((pair, many) for pair in ((0, 1), (0, 2)) for many in (given, by_weights)):
        expected = (
            planted[i].inverse().after(planted[j])
            if many is given
            else lmc.match_many(models, spec, method="pairwise").pairwise(i, j)
        )
        for name, element in many.pairwise(i, j).items():
            assert torch.allclose(element.double(), expected[name].double(), atol=1e-8), name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batches": None}, ValueError, "batches must be given for method='learned'"),
        ({"mixing": "ends"}, ValueError, "points must be one of 'excess', 'midpoint'"),
        ({"steps": 0}, ValueError, "steps must be"),
        ({"patience": 0}, ValueError, "patience must be"),
        ({"method": "merge_many", "batches": None, "init": "activations"}, ValueError, "init='activations' must come"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    models, spec, batches = three("rmsnorm")
    with pytest.raises(error, match=message):
        lmc.match_many(models, spec, **{"method": "learned", "batches": batches, **options})  # type: ignore[arg-type]


def test_a_spec_of_permutations_has_nothing_to_learn() -> None:
    models, _, batches = three("rmsnorm")
    spec = lmc.derive_spec(models[0], batches[0][0])
    with pytest.raises(ValueError, match="spec must have groups that turn"):
        lmc.match_many(models, spec, method="learned", batches=batches)
