"""Models in pure form compute what they did, and say of themselves what they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import PermutationSpec, SymmetryError
from lmc_fast.symmetry import Centre, Fold, PureForm, Reader, check_pure

from .turning import Decoder, spec_of, tokens

CASES = [
    pytest.param("layer", "", False, id="LayerNorm"),
    pytest.param("layer", "halves", True, id="LayerNorm, tied"),
    pytest.param("rms", "halves", False, id="RMSNorm"),
    pytest.param("rms", "interleaved", True, id="RMSNorm, tied"),
    pytest.param("gemma", "halves", True, id="gain of 1 + weight, tied"),
]


def case(norm: str, rotary: str, tied: bool, dtype: torch.dtype = torch.float64) -> tuple[Decoder, PermutationSpec]:
    torch.manual_seed(1)
    model = Decoder(norm, rotary, tied).to(dtype).eval()
    return model, spec_of(model, norm, rotary, tied)


@pytest.mark.parametrize(("norm", "rotary", "tied"), CASES)
def test_folded_models_compute_the_same_and_so_do_turned_ones(norm: str, rotary: str, tied: bool) -> None:
    model, spec = case(norm, rotary, tied)
    before = copy.deepcopy(model.state_dict())
    wanted = model(tokens())
    pure = lmc.fold_norms(model, spec)
    assert type(pure) is Decoder
    assert torch.allclose(pure(tokens()), wanted, atol=1e-10)
    turned = lmc.Transforms.random(spec, seed=2).apply(pure)
    assert torch.allclose(turned(tokens()), wanted, atol=1e-10)
    # Turned without being folded it would be another function.
    with pytest.raises(ValueError, match="is not folded"):
        lmc.Transforms.random(spec, seed=2).apply(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("norm", "rotary", "tied"), CASES)
def test_gains_are_one_biases_zero_and_means_out(norm: str, rotary: str, tied: bool) -> None:
    model, spec = case(norm, rotary, tied)
    pure = lmc.fold_norms(model, spec)
    state = pure.state_dict()
    for fold in spec.folds:
        if isinstance(fold, Centre):
            assert float(state[fold.parameter].mean(fold.axis).abs().max()) < 1e-12
        else:
            assert bool((state[fold.weight] == fold.neutral).all())
            if fold.bias is not None and not fold.keeps_bias:
                assert not bool(state[fold.bias].any())
    check_pure("model", state, spec)
    with pytest.raises(
        ValueError, match=r"model_b must be in pure form.*'blocks.0.norm1.weight'.*fold_norms\(model_b,"
    ):
        check_pure("model_b", model.state_dict(), spec)
    assert pure.head.weight is not pure.embed.weight
    again = lmc.fold_norms(pure, spec).state_dict()
    for name, tensor in state.items():
        assert torch.allclose(again[name], tensor, atol=1e-12), name


def test_a_bias_that_is_not_folded_is_seen() -> None:
    model, spec = case("layer", "", False)
    state = lmc.fold_norms(model, spec).state_dict()
    state["blocks.1.norm2.bias"] = state["blocks.1.norm2.bias"] + 0.1
    with pytest.raises(ValueError, match=r"'blocks.1.norm2.weight' is not folded"):
        check_pure("model", state, spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("norm", "rotary", "tied"), CASES)
def test_state_dicts_are_folded_as_modules_are(norm: str, rotary: str, tied: bool, dtype: torch.dtype) -> None:
    model, spec = case(norm, rotary, tied, dtype)
    folded = lmc.fold_norms(model.state_dict(), spec)
    of_module = lmc.fold_norms(model, spec).state_dict()
    assert folded.keys() == of_module.keys()
    for name, tensor in folded.items():
        assert torch.equal(tensor, of_module[name]), name
        assert tensor.dtype == dtype
        assert tensor.data_ptr() != model.state_dict()[name].data_ptr()


@pytest.mark.parametrize(("norm", "rotary", "tied"), CASES)
def test_tensors_are_folded_one_at_a_time_from_what_they_need(norm: str, rotary: str, tied: bool) -> None:
    model, spec = case(norm, rotary, tied)
    # A file holds a tied tensor once.
    held = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "head.weight")}
    pure = PureForm(spec.folds)
    wanted = lmc.fold_norms(model, spec).state_dict()
    assert set(pure.untied) == ({"head.weight"} if tied else set())
    for name, tensor in wanted.items():
        needed = [each if each in held else pure.untied[each] for each in pure.needs(name)]
        assert torch.equal(pure.tensor(name, {each: held[each] for each in needed}), tensor), name
        assert name in pure.names or torch.equal(tensor, held[name])
    assert pure(held).keys() == wanted.keys()


class Config:
    def __init__(self) -> None:
        self.tie_word_embeddings, self.text_config = True, self
        self.vocab_size = 3


class Configured(Decoder):
    def __init__(self) -> None:
        super().__init__(tied=True)
        self.config = Config()
        self.all_tied_weights_keys = {"head.weight": "embed.weight"}


def test_a_configuration_says_that_weights_are_untied() -> None:
    model = Configured().eval()
    pure = lmc.fold_norms(model, spec_of(model, tied=True), example_inputs=tokens())
    assert not pure.config.tie_word_embeddings
    assert pure.all_tied_weights_keys == {}
    assert model.config.tie_word_embeddings
    assert model.head.weight is model.embed.weight


class Reads(nn.Module):
    """A norm that is read by a convolution, by a map of all places, and after others on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.conv, self.flat, self.beside = nn.Conv1d(6, 5, 2), nn.Linear(6 * 3, 5), nn.Linear(4 + 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.enter(x))
        both = self.beside(torch.cat([x, h], dim=-1)).sum(1)
        # [batch, places, units] and [batch, units, places]
        return self.conv(h.mT).sum(-1) + self.flat(h.flatten(1)) + both


def test_readers_of_other_forms() -> None:
    model = Reads().double().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2), model.norm.bias.normal_()
    readers = (
        Reader("conv.weight", 1, "conv.bias"),
        Reader("flat.weight", 1, "flat.bias", outer=3),
        Reader("beside.weight", 1, "beside.bias", offset=4),
    )
    spec = PermutationSpec.from_axes({}, model=model, rest="fixed", folds=[Fold("norm.weight", readers, "norm.bias")])
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    pure = lmc.fold_norms(model, spec, example_inputs=x)
    assert torch.allclose(pure(x), model(x), atol=1e-12)
    assert bool((pure.norm.weight == 1).all())


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (
            Reader("flat.weight", 1, "flat.bias", outer=4),
            "has 18 entries, but norm 'norm.weight' is read there at 0..24",
        ),
        (Reader("flat.weight", 2, "flat.bias"), "has 2 dimensions, but 'norm.weight' is read along 2"),
        (Reader("conv.weight", 1, "enter.bias"), "'enter.bias' has 6 entries, but 'conv.weight' gives 5 sums"),
    ],
)
def test_readers_that_do_not_fit_are_named(reader: Reader, says: str) -> None:
    model = Reads()
    spec = PermutationSpec.from_axes({}, model=model, rest="fixed", folds=[Fold("norm.weight", (reader,), "norm.bias")])
    with pytest.raises(ValueError, match=says):
        lmc.fold_norms(model, spec)


def test_a_kept_bias_needs_gains() -> None:
    model, spec = case("layer", "", False)
    with torch.no_grad():
        model.norm.weight[3] = 0
    with pytest.raises(ValueError, match=r"'norm.weight' cannot be folded: its bias 'norm.bias' has to be divided"):
        lmc.fold_norms(model, spec)
    with torch.no_grad():
        model.norm.bias[3] = 0
    assert torch.allclose(lmc.fold_norms(model, spec)(tokens()), model(tokens()), atol=1e-10)


def test_folding_that_changes_outputs_is_seen_where_inputs_are_given() -> None:
    model, spec = case("rms", "", False)
    few = [fold for fold in spec.folds if isinstance(fold, Fold) and fold.weight != "norm.weight"]
    wrong = PermutationSpec(
        spec.groups, spec.axes, folds=(*few, Fold("norm.weight", (Reader("blocks.0.up.weight", 1),)))
    )
    with pytest.raises(SymmetryError, match=r"folding norm 'norm.weight' into 'blocks.0.up.weight' changes"):
        lmc.fold_norms(model, wrong, example_inputs=tokens())


def test_wrong_arguments_are_named() -> None:
    model, spec = case("rms", "", False)
    with pytest.raises(TypeError, match="spec"):
        lmc.fold_norms(model, "spec")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_inputs must come with a module"):
        lmc.fold_norms(model.state_dict(), spec, example_inputs=tokens())
    with pytest.raises(TypeError, match="model"):
        lmc.fold_norms(3, spec)  # type: ignore[type-var]
