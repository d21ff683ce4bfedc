"""Analysis of a model that is turned: what is said of factors is what is said of the model that has been moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Transforms
from lmc_fast.matching import Matching
from tests.symmetry.turning import Decoder, spec_of, tokens


def pair(norm: str = "layer", rotary: str = "") -> tuple[nn.Module, nn.Module, PermutationSpec]:
    """Two decoders in pure form, in float64, that have nothing in common."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        raw = Decoder(norm, rotary).double()
        spec = spec_of(raw, norm, rotary)
        found.append(lmc.fold_norms(raw, spec))
    return found[0], found[1], spec


def matching(choice: Transforms) -> Matching:
    return Matching(choice, 0.0, 1.0, 0.5, True, (), 0.0, "by hand")


def grid() -> tuple[dict[str, Tensor], dict[str, Tensor], Transforms]:
    """Weights of three axes, two of which turn, and of units with signs."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (6, 4, 3), "tall": (9, 6)}
    a, b = (
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    groups = [Group("p", kind="orthogonal"), Group("q", kind="orthogonal_keeping_ones"), Group("s", kind="signed")]
    spec = PermutationSpec.from_axes({"wide": ("p", "q", None), "tall": ("s", "p")}, groups, model=a)
    return a, b, Transforms.random(spec, 2)


@pytest.mark.parametrize("rotary", ["", "halves"])
def test_what_was_turned_coincides_once_it_is_turned_back(rotary: str) -> None:
    a, _, spec = pair("rms", rotary)
    truth = Transforms.random(spec, 3)
    b = truth.inverse().apply(a)
    for match in (truth, matching(truth)):
        found = lmc.spectral_alignment(a, b, match)
        assert found.overall == pytest.approx((1.0, 1.0), abs=1e-9)
        assert lmc.distance_decomposition(a, b, match).overall.after < 1e-10
        cosines = lmc.vector_cosines(a, b, match, top=3)["blocks.0.up.weight"]
        assert abs(cosines.left.diagonal() - 1).max() < 1e-8 and abs(cosines.right.diagonal() - 1).max() < 1e-8
    assert lmc.spectral_alignment(a, b).overall[0] < 0.3


@pytest.mark.parametrize("method", ["svd", "polar"])
@pytest.mark.parametrize("held", [False, True], ids=["models", "factors"])
def test_alignment_is_that_of_the_moved_model(method: str, held: bool) -> None:
    a, b, turn = grid()
    gammas = (0.0,) if method == "polar" else (0.0, 0.5, 0.9)
    expected = lmc.spectral_alignment(a, turn.apply(b), gammas=gammas, method="svd")
    if held and method == "polar":
        with pytest.raises(ValueError, match="SpectralFactors"):
            lmc.spectral_alignment(lmc.singular_factors(a), lmc.singular_factors(b), turn, gammas=(0.0,), method=method)
        return
    models = (lmc.singular_factors(a), lmc.singular_factors(b)) if held else (a, b)
    found = lmc.spectral_alignment(*models, turn, gammas=gammas, method=method)
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.r == pytest.approx(other.r, abs=1e-6) and one.kept_b == other.kept_b
    assert abs(found.overall[0] - lmc.spectral_alignment(a, b, gammas=gammas, method=method).overall[0]) > 1e-3


def test_cosines_are_those_of_the_moved_model() -> None:
    a, b, turn = grid()
    expected, found = lmc.vector_cosines(a, turn.apply(b)), lmc.vector_cosines(a, b, turn)
    for name, one in expected.items():
        assert abs(one.left - found[name].left).max() < 1e-9 and abs(one.right - found[name].right).max() < 1e-9


def test_distances_are_those_of_the_moved_model() -> None:
    a, b, turn = grid()
    moved = turn.apply(b)
    for layer in lmc.distance_decomposition(lmc.singular_factors(a), lmc.singular_factors(b), turn).layers:
        assert layer.after == pytest.approx(float((a[layer.name] - moved[layer.name]).norm()))
        assert layer.before == pytest.approx(float((a[layer.name] - b[layer.name]).norm()))
        assert layer.decomposed == pytest.approx(layer.after)
        assert layer.bound < layer.after


def test_turned_factors_keep_their_dtype_and_the_callers_stay() -> None:
    a, b, turn = grid()
    a, b = ({name: tensor.float() for name, tensor in model.items()} for model in (a, b))
    factors = lmc.singular_factors(b)
    before = {name: layer.u.clone() for name, layer in factors.items()}
    found = lmc.spectral_alignment(lmc.singular_factors(a), factors, turn)
    assert found.overall == pytest.approx(lmc.spectral_alignment(a, turn.apply(b)).overall, abs=1e-5)
    for name, layer in factors.items():
        assert torch.equal(layer.u, before[name]) and layer.u.dtype == torch.float32


def test_inputs_lie_to_vectors_as_before() -> None:
    a, _, spec = pair()
    turned = Transforms.random(spec, 5).apply(a)
    batches = [tokens()]
    one, other = lmc.input_alignment(a, batches), lmc.input_alignment(turned, batches)
    for layer, moved in zip(one.layers, other.layers, strict=True):
        # Values that are zero to rounding have no vectors of their own.
        live = layer.values > 1e-9 * layer.values.max()
        assert abs(layer.cosines - moved.cosines)[live].max() < 1e-8, layer.name


def test_models_that_are_not_folded_are_refused() -> None:
    a, b, spec = pair()
    raw = Decoder().double()
    turn = Transforms.random(spec)
    for models, argument in (((raw, b), "model_a"), ((a, raw), "model_b")):
        for analysis in (lmc.spectral_alignment, lmc.vector_cosines, lmc.distance_decomposition):
            with pytest.raises(ValueError, match=f"{argument} must be in pure form"):
                analysis(*models, turn)


def test_a_choice_for_another_model_is_refused() -> None:
    a, b, turn = grid()
    with pytest.raises(ValueError, match="its spec lacks parameter 'more'"):
        lmc.spectral_alignment(*(lmc.singular_factors({**model, "more": a["tall"].clone()}) for model in (a, b)), turn)
    with pytest.raises(ValueError, match=r"'tall' is \(9, 5\) as a matrix here and \(9, 6\) there"):
        lmc.spectral_alignment(*(lmc.singular_factors({"tall": model["tall"][:, :5]}) for model in (a, b)), turn)
    with pytest.raises(TypeError, match="match must be a Matching, Permutations, Transforms or None"):
        lmc.spectral_alignment(a, b, 3)  # type: ignore[arg-type]
