"""Weight matching by weighted entries and by directions, against the plain formula over all permutations."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

Tensors = dict[str, Tensor]

AXES: dict[str, Any] = {"w1": ("P", None), "b1": ("P",), "w2": ("Q", "P"), "b2": ("Q",), "w3": (None, "Q")}
SHAPES = {"w1": (4, 3), "b1": (4,), "w2": (3, 4), "b2": (3,), "w3": (2, 3)}
SPEC = lmc.PermutationSpec.from_axes(AXES)


def drawn(seed: int, positive: bool = False) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    return {name: tensor.square() if positive else tensor for name, tensor in made.items()}


def distance(a: Tensors, b: Tensors, of_a: Tensors, of_b: Tensors, weighting: str, shares: dict[str, float]) -> float:
    """The weighted squared distance as it is written down."""
    total = 0.0
    for name, x in a.items():
        w = of_a[name] * of_b[name] if weighting == "product" else of_a[name] + of_b[name]
        total += shares.get(name, 1.0) * float((w * (x - b[name]).square()).sum())
    return total


def every_choice() -> list[lmc.Permutations]:
    spec = SPEC.bind(drawn(0))
    return [
        lmc.Permutations(spec, {"P": list(p), "Q": list(q)})
        for p in permutations(range(4))
        for q in permutations(range(3))
    ]


def applied(choice: lmc.Permutations, tensors: Tensors) -> Tensors:
    return {name: choice.apply_to(name, tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("shares", [{}, {"w2": 0.3, "b1": 0.0}], ids=["alike", "shares"])
@pytest.mark.parametrize("search", ["spectral", "coordinate_descent", "frank_wolfe"])
@pytest.mark.parametrize("weighting", ["product", "sum"])
def test_the_least_weighted_distance_is_found(weighting: str, search: str, shares: dict[str, float]) -> None:
    a, b, of_a, of_b = drawn(1), drawn(2), drawn(3, True), drawn(4, True)
    match = lmc.weight_matching(
        a, b, SPEC, entry_weights=(of_a, of_b), entry_weighting=weighting, search=search, restarts=8, weights=shares
    )

    def of(choice: lmc.Permutations) -> float:
        return distance(a, applied(choice, b), of_a, applied(choice, of_b), weighting, shares)

    least = min(map(of, every_choice()))
    assert of(match.permutations) == pytest.approx(least, rel=1e-9)
    assert match.l2_after**2 == pytest.approx(least, rel=1e-9)
    assert match.objective == pytest.approx(-least / 2, rel=1e-9)
    assert match.l2_before**2 == pytest.approx(of(lmc.Permutations.identity(SPEC.bind(a))), rel=1e-9)
    assert match.history[-1].objective == pytest.approx(match.objective, rel=1e-6)
    assert all(x.objective <= y.objective + 1e-9 for x, y in zip(match.history, match.history[1:], strict=False))
    assert match.method.startswith("weight matching by weighted entries")


def test_weights_decide() -> None:
    a, b = drawn(1), drawn(2)
    ones = {name: torch.ones_like(tensor) for name, tensor in a.items()}
    plain = lmc.weight_matching(a, b, SPEC, restarts=8)
    alike = lmc.weight_matching(a, b, SPEC, restarts=8, entry_weights=(ones, ones))
    assert alike.permutations == plain.permutations
    # Weights of 1 + 1, as they are summed where nothing else is said.
    assert alike.l2_after == pytest.approx(2**0.5 * plain.l2_after)
    # One parameter alone counts.
    few = {name: tensor if name == "w1" else 1e-9 * tensor for name, tensor in ones.items()}
    alone = lmc.weight_matching(a, b, SPEC, restarts=8, entry_weights=(few, ones), entry_weighting="product")
    only = lmc.weight_matching(a, b, SPEC, restarts=8, weights=dict.fromkeys(("b1", "w2", "b2", "w3"), 0.0))
    assert torch.equal(alone.permutations["P"], only.permutations["P"])


@pytest.mark.parametrize("size", [1e-25, 1e25], ids=["tiny", "huge"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_planted_permutation_is_found_with_weights_of_any_size(dtype: torch.dtype, size: float) -> None:
    model = models.randomise(models.ConvNet(), seed=1)
    spec = architectures.vgg(model).bind(model)
    planted = lmc.Permutations.random(spec, 2)
    a = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    of_a = {name: size * torch.rand(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    b = planted.inverse().apply(a)
    of_b = {name: planted.inverse().apply_to(name, weights) for name, weights in of_a.items()}
    match = lmc.weight_matching(a, b, spec, entry_weights=(of_a, of_b))
    assert match.permutations == planted and match.l2_after == 0.0 and match.l2_before > 0


def directions(tensors: Tensors) -> Tensors:
    """Every row at a length of 1; what has one axis as a whole."""
    return {
        name: t / (t.norm() if t.ndim == 1 else t.flatten(1).norm(dim=1).reshape(-1, *[1] * (t.ndim - 1)))
        for name, t in tensors.items()
    }


def test_cosines_are_inner_products_of_directions() -> None:
    a, b = drawn(1), drawn(2)
    # Lengths that would decide otherwise.
    b["w1"] *= torch.tensor([100.0, 1.0, 0.01, 1.0], dtype=torch.float64)[:, None]
    match = lmc.weight_matching(a, b, SPEC, similarity="cosine", restarts=8)
    ready = directions(a)

    def of(choice: lmc.Permutations) -> float:
        moved = directions(applied(choice, b))
        return sum(float((ready[name] * moved[name]).sum()) for name in a)

    best = max(map(of, every_choice()))
    assert of(match.permutations) == pytest.approx(best, rel=1e-9) and match.objective == pytest.approx(best, rel=1e-9)
    moved = applied(match.permutations, b)
    assert match.l2_after**2 == pytest.approx(sum(float((a[n] - moved[n]).square().sum()) for n in a))
    assert match.method == "weight matching by directions"
    assert lmc.weight_matching(a, b, SPEC, restarts=8).permutations != match.permutations


def test_lengths_of_rows_change_nothing_by_directions() -> None:
    model = models.randomise(models.ConvNet(), seed=1)
    spec = architectures.vgg(model).bind(model)
    planted, a = lmc.Permutations.random(spec, 2), model.state_dict()
    b = planted.inverse().apply(a)
    generator = torch.Generator().manual_seed(0)
    for name in ("features.0.weight", "classifier.1.weight"):
        b[name] = b[name] * (1e-20 + torch.rand(len(b[name]), generator=generator)).reshape(
            -1, *[1] * (b[name].ndim - 1)
        )
    assert lmc.weight_matching(a, b, spec, similarity="cosine").permutations == planted


def test_rows_of_zeros_and_scalars_are_no_trouble() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("P", None), "s": ()})
    a = {"w": torch.tensor([[0.0, 0.0], [1e-38, 2e-38], [3.0, 1.0]]), "s": torch.tensor(-2.0)}
    b = {"w": a["w"][[2, 0, 1]], "s": torch.tensor(-0.5)}
    match = lmc.weight_matching(a, b, spec, similarity="cosine")
    assert match.permutations["P"].tolist() == [1, 2, 0] and match.objective == pytest.approx(3.0, rel=1e-5)


ONES = {name: torch.ones(shape) for name, shape in SHAPES.items()}
LESS = {name: tensor for name, tensor in ONES.items() if name != "w2"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weighting": ({"entry_weighting": "mean"}, "entry_weighting must be one of 'product', 'sum', got 'mean'"),
    "similarity": ({"similarity": "cos"}, "similarity must be one of 'inner', 'cosine', got 'cos'"),
    "lacking": (
        {"entry_weights": (ONES, LESS)},
        r"entry_weights\[1\] must hold a tensor for every weight, but lacks 'w2'",
    ),
    "both": ({"entry_weights": (ONES, ONES), "similarity": "cosine"}, "similarity must be 'inner' with entry_weights"),
    "one": ({"entry_weights": (ONES,)}, "entry_weights must be a sequence of 2 mappings"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lmc.weight_matching(drawn(1), drawn(2), SPEC, **options)


def test_what_does_not_count_needs_no_weights() -> None:
    match = lmc.weight_matching(drawn(1), drawn(2), SPEC, entry_weights=(ONES, LESS), weights={"w2": 0.0})
    assert match.l2_after < match.l2_before


@pytest.mark.parametrize(
    "options", [{"entry_weights": (ONES, ONES)}, {"similarity": "cosine"}], ids=["entries", "cosine"]
)
def test_what_turns_has_no_entries(options: dict[str, Any]) -> None:
    spec = lmc.PermutationSpec.from_axes({"w1": ("P", None), "w2": (None, "P")}, [lmc.Group("P", kind="orthogonal")])
    a = {"w1": torch.ones(4, 3), "w2": torch.ones(3, 4)}
    with pytest.raises(ValueError, match=r"entry_weights|similarity='cosine'"):
        lmc.weight_matching(a, a, spec, **options)


def test_computed_weights_are_refused() -> None:
    a = {"fc.weight_g": torch.ones(4, 1), "fc.weight_v": torch.randn(4, 3), "out.weight": torch.randn(2, 4)}
    spec = lmc.PermutationSpec.from_axes(
        {"fc.weight_g": ("P", None), "fc.weight_v": ("P", None), "out.weight": (None, "P")}
    )
    with pytest.raises(
        ValueError, match=r"take models with weights of their own, but 'fc\.weight' is computed from others"
    ):
        lmc.weight_matching(a, a, spec, entry_weights=(a, a))
