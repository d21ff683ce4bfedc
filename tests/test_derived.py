"""Weights that layers compute from others: what the function sees is what is matched, merged and analysed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import lmc_fast as lmc
from lmc_fast._copies import copied
from lmc_fast._derived import bake, derived_weights, effective_tensors, leading_vectors

X = torch.randn(40, 6)


class Doubled(nn.Module):
    """A parametrisation that torch does not know."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def old(function: Callable[..., object]) -> Callable[[nn.Module], object]:
    def prepare(layer: nn.Module) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(layer)

    return prepare


PREPARED = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": old(nn.utils.weight_norm),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": old(nn.utils.spectral_norm),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "pruned twice": lambda layer: (
        prune.l1_unstructured(layer, "weight", 0.4),
        prune.random_unstructured(layer, "weight", 0.2),
    ),
    "parametrised": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
}
NAMES = {
    "weight_norm": {"original0": ("P", None), "original1": ("P", None)},
    "old weight_norm": {"weight_g": ("P", None), "weight_v": ("P", None)},
    "spectral_norm": {"original": ("P", None), "0._u": ("P",), "0._v": (None,)},
    "old spectral_norm": {"weight_orig": ("P", None), "weight_u": ("P",), "weight_v": (None,)},
    "pruned": {"weight_orig": ("P", None), "weight_mask": ("P", None)},
    "pruned twice": {"weight_orig": ("P", None), "weight_mask": ("P", None)},
    "parametrised": {"original": ("P", None)},
}


def with_derived(prepare: Callable[[nn.Linear], object], seed: int) -> nn.Module:
    """An MLP whose first layer's weight is derived; spectral norms have seen data, as after training."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    prepare(model[0])
    for _ in range(40):
        model.train()(X)
    return model.eval()


def model_of(kind: str, seed: int) -> nn.Module:
    return with_derived(PREPARED[kind], seed)


def spec_of(kind: str) -> lmc.PermutationSpec:
    prefix = "0." if kind.startswith(("old", "pruned")) else "0.parametrizations.weight."
    own = {f"{prefix}{name}": axes for name, axes in NAMES[kind].items()}
    return lmc.PermutationSpec.from_axes({**own, "0.bias": ("P",), "2.weight": (None, "P"), "2.bias": (None,)})


def plain_of(model: nn.Module) -> nn.Module:
    """The same function with plain weights."""
    model(X)
    plain = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    with torch.no_grad():
        for layer, given in zip((plain[0], plain[2]), (model[0], model[2]), strict=True):
            layer.weight.copy_(given.weight)
            layer.bias.copy_(given.bias)
    return plain


@pytest.mark.parametrize("as_state", [False, True], ids=["modules", "state dicts"])
@pytest.mark.parametrize("kind", PREPARED)
def test_effective_weights_are_what_layers_use(kind: str, as_state: bool) -> None:
    if kind == "parametrised" and as_state:
        pytest.skip("a state dict does not tell how such a weight is computed")
    model = model_of(kind, 0)
    state = model.state_dict()
    found = effective_tensors(state, derived_weights(state if as_state else model, state))
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias"] or sorted(found) == sorted(
        ["0.weight", "0.bias", "2.weight", "2.bias"]
    )
    torch.testing.assert_close(found["0.weight"], plain_of(model)[0].weight.detach())


@pytest.mark.parametrize("kind", PREPARED)
def test_matching_counts_what_the_function_sees(kind: str) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    match = lmc.weight_matching(a, b, spec_of(kind))
    plain = lmc.weight_matching(plain_of(a), plain_of(b), lmc.architectures.mlp(plain_of(a)))
    assert match.objective == pytest.approx(plain.objective, rel=1e-6)
    assert (match.l2_before, match.l2_after) == pytest.approx((plain.l2_before, plain.l2_after), rel=1e-6)
    (mine,), (theirs,) = match.permutations.choices.values(), plain.permutations.choices.values()
    assert mine.tolist() == theirs.tolist()
    with torch.no_grad():
        torch.testing.assert_close(match.apply(b)(X), b(X))


@pytest.mark.parametrize("kind", [kind for kind in PREPARED if "norm" in kind])
def test_lengths_that_do_not_matter_do_not_count(kind: str) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    spec = spec_of(kind)
    match = lmc.weight_matching(a, b, spec)
    scaled = copy.deepcopy(b.state_dict())
    name = next(name for name in scaled if name.endswith(("original1", "weight_v", "original", "weight_orig")))
    scaled[name] *= 7.0
    other = lmc.weight_matching(a, scaled, spec)
    assert other.permutations == match.permutations
    assert other.l2_after == pytest.approx(match.l2_after, rel=1e-5)


@pytest.mark.parametrize("kind", PREPARED)
def test_singular_vectors_are_those_of_effective_weights(kind: str) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    match = lmc.weight_matching(a, b, spec_of(kind))
    factors = lmc.singular_factors(a)
    assert set(factors) == {"0.weight", "2.weight"}
    torch.testing.assert_close(factors["0.weight"].s, torch.linalg.svdvals(plain_of(a)[0].weight.detach()))
    moved = lmc.spectral_alignment(a, match.apply(b), gammas=(0.0, 0.3)).overall
    gathered = lmc.spectral_alignment(a, b, match, gammas=(0.0, 0.3)).overall
    assert moved == pytest.approx(gathered, rel=1e-4)
    after = lmc.distance_decomposition(a, b, match).overall.after
    assert after == pytest.approx(lmc.distance_decomposition(a, match.apply(b)).overall.before, rel=1e-5)
    assert [layer.name for layer in lmc.input_alignment(a, [X]).layers] == ["0.weight", "2.weight"]
    source = next(name for name in a.state_dict() if "orig" in name or "_v" in name)
    assert set(lmc.singular_factors(a, parameters=[source])) == {"0.weight"}


@pytest.mark.parametrize("as_state", [False, True], ids=["modules", "state dicts"])
@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "pruned", "pruned twice"])
def test_the_effective_weight_is_interpolated(kind: str, as_state: bool) -> None:
    a, b = model_of(kind, 0), model_of(kind, 1)
    match = lmc.weight_matching(a, b, spec_of(kind))
    given = [model.state_dict() for model in (a, b)] if as_state else [a, b]
    merged = lmc.interpolate(*given, 0.25, match)
    if as_state:
        state, merged = merged, model_of(kind, 0)
        merged.load_state_dict(state)
    middle = lmc.interpolate(plain_of(a), plain_of(match.apply(b)), 0.25)
    with torch.no_grad():
        torch.testing.assert_close(merged(X), middle(X))
    ends = lmc.interpolate(a, b, [0.0, 1.0], match)
    with torch.no_grad():
        assert torch.equal(ends[0](X), a(X)) and torch.equal(ends[1](X), match.apply(b)(X))


@pytest.mark.parametrize("kind", ["spectral_norm", "old spectral_norm"])
def test_a_merged_spectral_norm_is_a_norm(kind: str) -> None:
    models = [model_of(kind, seed) for seed in range(3)]
    many = lmc.match_many(models, spec_of(kind))
    for merged in (
        lmc.interpolate(models[0], models[1], 0.5, lmc.weight_matching(*models[:2], spec_of(kind))),
        lmc.merge(models, many),
    ):
        norm = torch.linalg.matrix_norm(plain_of(merged)[0].weight.detach(), 2)
        assert float(norm) == pytest.approx(1.0, abs=1e-5)


def test_merged_lengths_of_zero_keep_a_direction() -> None:
    a, b = model_of("weight_norm", 0), model_of("weight_norm", 1)
    with torch.no_grad():
        for model in (a, b):
            model[0].parametrizations.weight.original0[2] = 0.0
    merged = lmc.interpolate(a, b, 0.5)
    assert bool(torch.isfinite(merged(X)).all()) and not merged[0].weight[2].any()


def test_barriers_leave_the_callers_effective_weights_as_they_are() -> None:
    a, b = model_of("old weight_norm", 0), model_of("old weight_norm", 1)
    before = a[0].weight.detach().clone()
    lmc.loss_barrier(a, b, [(X, torch.zeros(40, dtype=torch.int64))], lambdas=3)
    assert torch.equal(a[0].weight, before)


def test_baked_modules_have_plain_weights_and_the_same_function() -> None:
    for kind in PREPARED:
        model = model_of(kind, 0)
        twin = model_of(kind, 0)
        before = twin.state_dict()
        again = copied(twin)
        bake(again)
        assert list(twin.state_dict()) == list(before) and torch.equal(twin(X), again(X)), kind
        bake(twin)
        assert sorted(twin.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"], kind
        torch.testing.assert_close(twin(X), model(X))


@pytest.mark.parametrize("rows", [1, 5, 60])
def test_leading_vectors_are_those_of_a_decomposition(rows: int) -> None:
    matrix = torch.randn(rows, 17)
    left, right = leading_vectors(matrix, torch.randn(rows))
    largest = torch.linalg.svdvals(matrix)[0]
    assert float(left @ matrix @ right) == pytest.approx(float(largest), rel=1e-5)
    for start in (torch.zeros(rows), torch.randn(rows)):
        left, right = leading_vectors(torch.zeros(rows, 17), start)
        assert bool(torch.isfinite(left).all()) and bool(torch.isfinite(right).all())


def test_equal_matrices_of_files_count_once_and_equal_layers_apart() -> None:
    tensors = {"emb": torch.randn(7, 4), "up": torch.randn(5, 4), "up2": torch.randn(5, 4)}
    tied = {**tensors, "head": tensors["emb"].clone()}
    other = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}
    other["head"] = other["emb"].clone()
    axes = {"emb": (None, "D"), "head": (None, "D"), "up": ("H", "D"), "up2": ("I", "D")}
    spec = lmc.PermutationSpec.from_axes(axes)
    without = lmc.PermutationSpec.from_axes({name: axes[name] for name in tensors})
    once = lmc.weight_matching({name: tied[name] for name in tensors}, {name: other[name] for name in tensors}, without)
    match = lmc.weight_matching(tied, other, spec)
    assert (match.l2_before, match.l2_after) == (once.l2_before, once.l2_after)
    # Equal in one model only, or on other axes: two weights.
    apart = lmc.weight_matching(tied, {**other, "head": torch.randn(7, 4)}, spec)
    assert apart.l2_before > once.l2_before
    copies = {**tensors, "up2": tensors["up"].clone()}
    distance = lmc.weight_matching(
        copies, {**{name: other[name] for name in tensors}, "up2": other["up"].clone()}, without, init="identity"
    ).l2_before
    squares = [(copies[name] - other["up" if name == "up2" else name]).double().square().sum() for name in copies]
    assert distance == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-6)
