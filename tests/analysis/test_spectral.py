"""R(gamma) of whole models: identities in float64, structure of every kind, factors that are used again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.analysis.factors import LayerFactors
from lmc_fast.ops.spectral_overlap import PolarOverlap, polar_overlap

GAMMAS = (0.0, 0.3, 0.6)
STRUCTURES = {
    "mlp": (models.small_mlp, architectures.mlp),
    "resnet": (models.small_resnet, architectures.resnet),
    "flatten": (models.ConvNet, architectures.vgg),
    "heads": (models.Attention, lambda model: models.Attention.spec().bind(model)),
    "transformer": (models.TransformerBlock, lambda model: models.TransformerBlock.spec().bind(model)),
    "experts": (models.Experts, lambda model: models.Experts.spec().bind(model)),
    "concat": (models.Concat, lambda model: models.Concat.spec().bind(model)),
    "grouped": (models.GroupedNet, lambda model: models.GroupedNet.spec().bind(model)),
}


def make(kind: str, seed: int) -> nn.Module:
    return models.randomise(STRUCTURES[kind][0]().double(), seed)


def by_definition(w_a: Tensor, w_b: Tensor, gammas: tuple[float, ...]) -> list[float]:
    """The sums over pairs, one after another, of weights that are permuted already."""
    (u_a, s_a, vh_a), (u_b, s_b, vh_b) = (torch.linalg.svd(w, full_matrices=False) for w in (w_a, w_b))
    found = []
    for gamma in gammas:
        ours, theirs = ((s >= gamma * s[0]).nonzero().flatten().tolist() for s in (s_a, s_b))
        total = sum(float((u_a[:, i] @ u_b[:, j]) * (vh_a[i] @ vh_b[j])) for i in ours for j in theirs)
        found.append(total / math.sqrt(len(ours) * len(theirs)))
    return found


@pytest.mark.parametrize("held", [False, True], ids=["models", "factors"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_it_is_the_sum_over_pairs_of_the_permuted_weights(kind: str, held: bool) -> None:
    a, b = make(kind, 1), make(kind, 2)
    spec = STRUCTURES[kind][1](a)
    permutations = lmc.Permutations.random(spec, 3)
    moved = permutations.apply(b).state_dict()
    sides = [lmc.singular_factors(model, spec=spec) for model in (a, b)] if held else [a, b]
    found = lmc.spectral_alignment(*sides, permutations, gammas=GAMMAS)
    for layer in found.layers:
        w_a, w_b = (
            spec.view(layer.name, tensors[layer.name]).reshape(layer.shape) for tensors in (a.state_dict(), moved)
        )
        assert layer.r == pytest.approx(by_definition(w_a, w_b, GAMMAS), abs=1e-10)
    names = [name for name, tensor in a.named_parameters() if tensor.ndim > 1]
    assert [layer.name for layer in found.layers] == names


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_permutation_that_made_a_copy_brings_all_of_it_back(kind: str) -> None:
    model = make(kind, 1)
    spec = STRUCTURES[kind][1](model)
    truth = lmc.Permutations.random(spec, 3)
    copy = truth.inverse().apply(model)
    after = lmc.spectral_alignment(model, copy, truth, gammas=GAMMAS)
    before = lmc.spectral_alignment(model, copy, lmc.Permutations.identity(spec), gammas=GAMMAS)
    assert after.overall == pytest.approx((1.0,) * 3, abs=1e-10)
    assert max(before.overall) < 0.9
    own, others = lmc.singular_factors(model, spec=spec).values, lmc.singular_factors(copy, spec=spec).values
    for name, values in own.items():
        torch.testing.assert_close(others[name], values, rtol=1e-10, atol=1e-12)


def test_a_model_coincides_with_itself_and_layers_add_up() -> None:
    a, b = make("resnet", 1), make("resnet", 2)
    assert lmc.spectral_alignment(a, a, gammas=GAMMAS).overall == pytest.approx((1.0,) * 3, abs=1e-10)
    found = lmc.spectral_alignment(a, b, gammas=GAMMAS)
    for g, value in enumerate(found.overall):
        total = sum(layer.r[g] * math.sqrt(layer.kept_a[g] * layer.kept_b[g]) for layer in found.layers)
        pairs = [sum(getattr(layer, kept)[g] for layer in found.layers) for kept in ("kept_a", "kept_b")]
        assert value == pytest.approx(total / math.sqrt(pairs[0] * pairs[1]))
    assert found.layers[0].kept_a[0] == min(found.layers[0].shape)
    text = str(found)
    assert "over all" in text and "layer2.1.conv2.weight" in text and "R(0.3)" in text


def test_signs_and_bases_do_not_matter() -> None:
    """Singular values 3, 2, 2, 2, 1, 1 with other vectors inside the repeated ones."""
    u, v = torch.linalg.qr(torch.randn(9, 6).double()).Q, torch.linalg.qr(torch.randn(7, 6).double()).Q
    s = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    turn = torch.diag(torch.tensor([-1.0, 1, 1, 1, -1, -1], dtype=torch.float64))
    turn[1:4, 1:4] = torch.linalg.qr(torch.randn(3, 3).double()).Q
    weight = (u * s) @ v.T
    sides = [
        lmc.SpectralFactors({"w": LayerFactors("w", weight, u @ t, s, v @ t)})
        for t in (torch.eye(6, dtype=torch.float64), turn)
    ]
    other = lmc.singular_factors({"w": torch.randn(9, 7).double()})
    first, second = (lmc.spectral_alignment(side, other, gammas=(0.0, 0.5, 0.7)).overall for side in sides)
    assert first == pytest.approx(second, abs=1e-12)
    by_torch = lmc.spectral_alignment({"w": weight}, other, gammas=(0.0, 0.5, 0.7)).overall
    assert by_torch == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_a_threshold_on_repeated_values_takes_all_of_them(gamma: float, dtype: torch.dtype) -> None:
    """Half of the values at 1 and half at 1/2, and all of an orthogonal weight: rounding spreads them."""
    u, v = (torch.linalg.qr(torch.randn(n, 40, dtype=dtype)).Q for n in (63, 40))
    s = torch.tensor([1.0] * 20 + [0.5] * 20, dtype=dtype)
    for values, kept in ((s, 20 if gamma == 1 else 40), (torch.ones_like(s), 40)):
        w = (u * values) @ v.T
        spec = lmc.PermutationSpec.from_axes({"w": ("rows", "columns")}, model={"w": w})
        truth = lmc.Permutations.random(spec, 1)
        copy = truth.inverse().apply({"w": w})
        found = lmc.spectral_alignment({"w": w}, copy, truth, gammas=(gamma,))
        assert (found.layers[0].kept_a, found.layers[0].kept_b) == ((kept,), (kept,))
        assert found.overall[0] == pytest.approx(1.0, abs=1e-4 if dtype == torch.float32 else 1e-12)


def test_lost_rank_does_not_count() -> None:
    w = torch.randn(20, 3) @ torch.randn(3, 15)
    found = lmc.spectral_alignment({"w": w}, {"w": w.clone()})
    assert found.layers[0].kept_a[0] == 3 and found.overall == pytest.approx((1.0, 1.0), abs=1e-5)
    nothing = lmc.spectral_alignment({"w": w}, {"w": torch.zeros_like(w)})
    assert nothing.overall == (0.0, 0.0) and nothing.layers[0].kept_b == (0, 0)
    factors = [lmc.singular_factors({"w": x}) for x in (w, torch.zeros_like(w))]
    assert lmc.spectral_alignment(*factors).overall == (0.0, 0.0)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_unrelated_weights_are_as_far_from_it_as_chance_makes_them(gamma: float) -> None:
    """Mean 0 and deviation 1 / sqrt(rows * columns), over 100 pairs of weights."""
    pair = [{f"{k}": torch.randn(15, 10) for k in range(100)} for _ in range(2)]
    found = lmc.spectral_alignment(*pair, gammas=(gamma,))
    values = torch.tensor([layer.r[0] for layer in found.layers])
    expected = found.layers[0].random_deviation
    assert expected == pytest.approx(1 / math.sqrt(150))
    assert abs(float(values.mean())) < 4 * expected / math.sqrt(100)
    assert float(values.std()) == pytest.approx(expected, rel=0.3)


def test_the_merged_model_is_between_its_parents() -> None:
    model = make("mlp", 1)
    spec = architectures.mlp(model)
    truth = lmc.Permutations.random(spec, 3)
    near = {name: t + 0.3 * torch.randn_like(t) / t.shape[-1] ** 0.5 for name, t in model.state_dict().items()}
    other = truth.inverse().apply(near)
    merged = lmc.interpolate(model, other, 0.5, truth)
    without = lmc.interpolate(model, other, 0.5)
    for gamma in (0, 1):
        to_b = lmc.spectral_alignment(merged, other, truth).overall[gamma]
        assert lmc.spectral_alignment(merged, model).overall[gamma] > 0.9 and to_b > 0.9
        assert to_b > lmc.spectral_alignment(without, other, lmc.Permutations.identity(spec)).overall[gamma]


@pytest.mark.parametrize("kind", ["mlp", "resnet", "heads"])
def test_polar_factors_agree_with_singular_vectors(kind: str) -> None:
    a, b = make(kind, 1), make(kind, 2)
    permutations = lmc.Permutations.random(STRUCTURES[kind][1](a), 3)
    by_svd = lmc.spectral_alignment(a, b, permutations, gammas=(0.0,), method="svd")
    by_polar = lmc.spectral_alignment(a, b, permutations, gammas=(0.0,), method="polar")
    assert (by_svd.method, by_polar.method) == ("svd", "polar")
    for one, other in zip(by_svd.layers, by_polar.layers, strict=True):
        assert one.r == pytest.approx(other.r, abs=1e-9)
        assert (one.name, one.shape, one.kept_a, one.kept_b) == (other.name, other.shape, other.kept_a, other.kept_b)


def test_the_choice_of_a_method_goes_by_size_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    w, large = torch.randn(6, 5), torch.randn(200, 350)
    assert lmc.spectral_alignment({"w": w}, {"w": w}, gammas=(0.0,)).method == "svd"
    found = lmc.spectral_alignment({"w": w, "v": large}, {"w": w, "v": large}, gammas=(0.0,))
    assert found.method == "polar" and found.overall == pytest.approx((1.0,), abs=1e-5)
    assert lmc.spectral_alignment({"v": large}, {"v": large}).method == "svd"
    monkeypatch.setattr("lmc_fast.analysis.spectral._for_polar", lambda *sides: True)
    assert lmc.spectral_alignment({"w": w}, {"w": w}, gammas=(0.0,)).method == "polar"


@pytest.mark.parametrize("by", ["auto", "products"])
def test_polar_factors_leave_out_what_a_weight_lacks(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By products alone, as on a GPU, a weight without full rank is looked at again."""

    def overlap(*weights: Tensor, **options: str) -> PolarOverlap:
        return polar_overlap(*weights, **{"by": by, **options})

    monkeypatch.setattr("lmc_fast.analysis.spectral.polar_overlap", overlap)
    lacking = {"w": torch.ones(6, 5), "v": torch.randn(5, 4)}
    found = lmc.spectral_alignment(lacking, lacking, gammas=(0.0,), method="polar")
    assert found.overall == pytest.approx((1.0,), abs=1e-5)
    assert [(layer.kept_a, layer.kept_b) for layer in found.layers] == [((1,), (1,)), ((4,), (4,))]


def test_factors_serve_for_other_permutations_without_another_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make("resnet", 1), make("resnet", 2)
    spec = architectures.resnet(a)
    held = [lmc.SpectralFactors.of(model) for model in (a, b)]
    expected = [lmc.spectral_alignment(a, b, lmc.Permutations.random(spec, seed)).overall for seed in range(3)]
    monkeypatch.setattr(torch.linalg, "svd", None)
    for seed, overall in enumerate(expected):
        found = lmc.spectral_alignment(*held, lmc.Permutations.random(spec, seed))
        assert found.overall == pytest.approx(overall, abs=1e-12)
    part = lmc.spectral_alignment(*held, parameters=["fc.weight"])
    assert [layer.name for layer in part.layers] == ["fc.weight"]
    assert repr(held[0]) == "SpectralFactors(9 weights)" and len(held[0].only(["fc.weight"])) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_lower_precision_is_decomposed_in_float32(dtype: torch.dtype) -> None:
    w = torch.randn(12, 8).T.to(dtype)
    layer = lmc.singular_factors({"w": w})["w"]
    assert layer.u.dtype == torch.float32 and layer.weight.dtype == dtype and layer.shape == (8, 12)
    torch.testing.assert_close((layer.u * layer.s) @ layer.v.T, w.float(), rtol=1e-5, atol=1e-5)


def test_equal_shapes_are_decomposed_together_in_the_models_order() -> None:
    weights = {f"{k}.weight": torch.randn(5 + k % 2, 4) for k in range(6)} | {"bias": torch.randn(4)}
    done: list[str] = []
    found = lmc.singular_factors(weights, progress=lambda what, k, total: done.append(what))
    assert list(found) == list(weights)[:-1] and len(done) == 6
    for name, layer in found.items():
        torch.testing.assert_close((layer.u * layer.s) @ layer.v.T, weights[name])


def test_tied_weights_count_once_and_statistics_not_at_all() -> None:
    model = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    model["two"].weight = model["one"].weight
    assert list(lmc.singular_factors(model)) == ["one.weight"]


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    a, b = (make("resnet", seed).float() for seed in (1, 2))
    permutations = lmc.Permutations.random(architectures.resnet(a), 3)
    here, there = (lmc.spectral_alignment(a, b, permutations, device=device) for device in ("cpu", "cuda"))
    assert there.overall == pytest.approx(here.overall, abs=1e-5)
    held = [lmc.singular_factors(model, device="cuda") for model in (a, b)]
    assert lmc.spectral_alignment(*held, permutations).overall == pytest.approx(here.overall, abs=1e-5)


def test_bad_input_is_named() -> None:
    a, b = {"w": torch.randn(4, 3)}, {"w": torch.randn(4, 3)}
    with pytest.raises(ValueError, match=r"gammas must be from 0 to 1, got 1\.5"):
        lmc.spectral_alignment(a, b, gammas=(1.5,))
    with pytest.raises(ValueError, match="method must be one of"):
        lmc.spectral_alignment(a, b, method="eig")
    with pytest.raises(TypeError, match="match must be a Matching, Permutations, Transforms or None"):
        lmc.spectral_alignment(a, b, "match")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method 'polar' must have gammas of 0 alone"):
        lmc.spectral_alignment(a, b, method="polar")
    with pytest.raises(ValueError, match="method 'polar' must have models"):
        lmc.spectral_alignment(lmc.singular_factors(a), b, gammas=(0.0,), method="polar")
    with pytest.raises(ValueError, match="model_b must have the weights of model_a, but lacks 'w'"):
        lmc.spectral_alignment(a, {"v": torch.randn(4, 3)})
    with pytest.raises(ValueError, match="model_b must have the weights of model_a, but has 'v' as well"):
        lmc.spectral_alignment(a, {"w": torch.randn(4, 3), "v": torch.randn(4, 3)})
    with pytest.raises(ValueError, match=r"model_b must have the shapes of model_a, but 'w' is \(3, 4\) there"):
        lmc.spectral_alignment(a, {"w": torch.randn(3, 4)})
    with pytest.raises(ValueError, match="parameters must name weights of the model, got 'x'"):
        lmc.spectral_alignment(a, b, parameters=["x"])
    with pytest.raises(TypeError, match="parameters must be a sequence of names or None, got 'w'"):
        lmc.spectral_alignment(a, b, parameters="w")
    with pytest.raises(ValueError, match="parameters must name one weight at least"):
        lmc.spectral_alignment(a, b, parameters=[])
    with pytest.raises(ValueError, match="parameters must name weights with two axes at least, but 'bias'"):
        lmc.singular_factors({"w": torch.randn(2, 2), "bias": torch.randn(2)}, parameters=["bias"])
    with pytest.raises(ValueError, match="model must have a weight with two axes at least, got none"):
        lmc.singular_factors({"bias": torch.randn(2)})
    with pytest.raises(ValueError, match=r"model_b\['w'\] must hold finite numbers"):
        lmc.spectral_alignment(a, {"w": torch.full((4, 3), torch.nan)})
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(5, 3)})
    with pytest.raises(ValueError, match="match must be for these models, but 'w' is"):
        lmc.spectral_alignment(lmc.singular_factors(a), lmc.singular_factors(b), lmc.Permutations(spec))
    with pytest.raises(ValueError, match="match must be for these models, but its spec lacks parameter 'w'"):
        other = lmc.PermutationSpec.from_axes({"v": ("p", None)}, model={"v": torch.zeros(5, 3)})
        lmc.spectral_alignment(lmc.singular_factors(a), lmc.singular_factors(b), lmc.Permutations(other))
    with pytest.raises(RuntimeError, match="backend 'native' cannot run spectral_overlap"):
        lmc.spectral_alignment(a, b, backend="native")
