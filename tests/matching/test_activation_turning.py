"""Activation matching of groups that turn: planted elements of every kind, what is summed, and what cannot be seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast._calls import Calls
from lmc_fast.matching.activations.crossing import activation_moments
from lmc_fast.matching.activations.seeing import Weights, spots_used
from lmc_fast.matching.activations.trial import steady_spots
from lmc_fast.symmetry import Centre, Fold, Reader
from tests.symmetry.turning import VOCABULARY, Decoder, spec_of

from ..slow import slow_but

WIDTH, HEADS, DIMS, HIDDEN, TOKENS = 16, 3, 5, 21, 7
WAYS = [(statistic, watch) for statistic in ("correlation", "covariance") for watch in ("inputs", "outputs")]


class Block(nn.Module):
    """Fused queries, keys and values, LayerNorms in front."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.o = nn.Linear(WIDTH, 3 * HEADS * DIMS), nn.Linear(HEADS * DIMS, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Vision(nn.Module):
    """A small vision transformer: patches as tokens, positions, two blocks, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, 6]
        x = self.patches(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))

    def spec(self) -> PermutationSpec:
        """The stream turns with the vector of ones held; so do queries with keys, and values, in every head."""
        axes: dict[str, tuple[object, ...]] = {
            "patches.weight": ("stream", None),
            "patches.bias": ("stream",),
            "positions": (None, "stream"),
            "head.weight": (None, "stream"),
        }
        groups = [Group("stream", kind="orthogonal_keeping_ones")]
        folds: list[Fold | Centre] = [Fold("norm.weight", (Reader("head.weight", 1, "head.bias"),), "norm.bias")]
        for i in range(2):
            at, value = f"blocks.{i}.", Segment(f"head{i}", inner=(Segment(f"value{i}"),))
            fused = (Segment(f"head{i}", outer=2, inner=(Segment(f"query_key{i}"),)), value)
            axes |= {
                at + "qkv.weight": (fused, "stream"),
                at + "qkv.bias": (fused,),
                at + "o.weight": ("stream", value),
                at + "o.bias": ("stream",),
                at + "up.weight": (f"unit{i}", "stream"),
                at + "up.bias": (f"unit{i}",),
                at + "down.weight": ("stream", f"unit{i}"),
                at + "down.bias": ("stream",),
            }
            groups += [
                Group(f"head{i}", HEADS),
                Group(f"query_key{i}", DIMS, owner=f"head{i}", kind="orthogonal"),
                Group(f"value{i}", DIMS, owner=f"head{i}", kind="orthogonal"),
            ]
            for norm, reader in (("norm1", "qkv"), ("norm2", "up")):
                read = Reader(f"{at}{reader}.weight", 1, f"{at}{reader}.bias")
                folds.append(Fold(f"{at}{norm}.weight", (read,), f"{at}{norm}.bias"))
            folds += [Centre(f"{at}{part}.{what}", 0) for part in ("o", "down") for what in ("weight", "bias")]
        folds += [Centre("patches.weight", 0), Centre("patches.bias", 0), Centre("positions", 1)]
        return PermutationSpec.from_axes(axes, groups, model=self, rest="fixed", folds=folds)  # type: ignore[arg-type]


def vision(seed: int = 0) -> Vision:
    """With norms that are not neutral, in float64."""
    torch.manual_seed(seed)
    model = Vision().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, TOKENS, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def worst(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any weight."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(("statistic", "watch"), WAYS)
def test_a_vision_transformer_that_was_turned_is_turned_back(statistic: str, watch: str, tmp_path: Path) -> None:
    raw = vision()
    spec = raw.spec()
    a = lmc.fold_norms(raw, spec)
    truth = Transforms.random(spec, 3)
    b = truth.inverse().apply(a)
    assert worst(a, b) > 0.1
    batches = list(images(60).split([40, 19, 1]))
    match = lmc.activation_matching(a, b, batches, spec, statistic=statistic, watch=watch)
    back = match.apply(b)
    assert worst(a, back) < 1e-4
    assert torch.allclose(back(images(9, 1)), raw(images(9, 1)), atol=1e-10)
    assert match.l2_after < 1e-4 * match.l2_before
    # All but units of permutations that happen to stay.
    assert match.verified is not None and match.history[0].moved > sum(map(spec.units, spec.groups)) / 2
    match.save(tmp_path / "m.safetensors")
    assert lmc.Matching.load(tmp_path / "m.safetensors").choice == match.choice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounded_weights_are_turned_back_as_far_as_rounding_lets(dtype: torch.dtype) -> None:
    raw = vision()
    spec = raw.spec()
    a = lmc.fold_norms(raw, spec)
    b = Transforms.random(spec, 3).inverse().apply(a).to(dtype)
    match = lmc.activation_matching(a.to(dtype), b, [images(60).to(dtype)], spec, unseen="raise")
    assert match.l2_after < torch.finfo(dtype).eps * match.l2_before


NORMS_AND_PLACES = [(norm, rotary) for norm in ("layer", "rms", "gemma") for rotary in ("", "halves", "interleaved")]


@pytest.mark.parametrize(("norm", "rotary"), slow_but(NORMS_AND_PLACES, NORMS_AND_PLACES[::4].__contains__))
def test_grouped_queries_are_turned_back(norm: str, rotary: str) -> None:
    torch.manual_seed(1)
    raw = Decoder(norm, rotary).double()
    spec = spec_of(raw, norm, rotary)
    a = lmc.fold_norms(raw, spec)
    b = Transforms.random(spec, 5).inverse().apply(a)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, VOCABULARY, (40, 8), generator=generator) for _ in range(3)]
    match = lmc.activation_matching(a, b, batches, spec)
    assert worst(a, match.apply(b)) < 1e-4


def test_signs_are_turned_back() -> None:
    model = models.randomise(nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)), 0)
    axes = {"0.weight": ("unit", None), "0.bias": ("unit",), "2.weight": (None, "unit"), "2.bias": (None,)}
    spec = PermutationSpec.from_axes(axes, [Group("unit", kind="signed")], model=model)
    truth = Transforms.random(spec, 1)
    for watch in ("inputs", "outputs"):
        match = lmc.activation_matching(model, truth.inverse().apply(model), [torch.randn(50, 4)], spec, watch=watch)
        assert match.choice == truth


def test_root_groups_inside_each_other_are_found_together() -> None:
    model = models.randomise(models.SharedInputs(), 0)
    plain = models.SharedInputs.spec()
    groups = [Group("hidden", kind="signed"), Group("block")]
    spec = PermutationSpec.from_axes(plain.axes, groups, model=model)
    truth = Transforms.random(spec, 2)
    match = lmc.activation_matching(model, truth.inverse().apply(model), [torch.randn(200, 4)], spec)
    assert match.choice == truth


class Linear(nn.Module):
    """Two maps with nothing between: what lies there turns. Behind it units that wake, and a product of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(7, 6), nn.Linear(6, 8)
        self.three = nn.Linear(8, 5)
        self.left, self.right = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(self.one(x)))) @ (self.left @ self.right).T


def linear(seed: int = 0) -> tuple[Linear, PermutationSpec]:
    torch.manual_seed(seed)
    model = Linear().double()
    axes = {
        "one.weight": ("turn", None),
        "one.bias": ("turn",),
        "two.weight": ("unit", "turn"),
        "two.bias": ("unit",),
        "three.weight": (None, "unit"),
        "left": (None, "rank"),
        "right": ("rank", None),
    }
    groups = [Group("turn", kind="orthogonal"), Group("rank", kind="orthogonal")]
    return model, PermutationSpec.from_axes(axes, groups, model=model, rest="fixed")


def test_the_gain_of_what_turns_is_the_second_moment_of_what_its_readers_get() -> None:
    (a, spec), (b, _) = linear(), linear(1)
    x = torch.randn(30, 7, dtype=torch.float64) + 1
    rest = (None, False, None)
    found = activation_moments(a, b, list(x.split(20)), spec, "covariance", "inputs", *rest)
    left, right = a.one(x), b.one(x)
    assert torch.allclose(found["turn"], left.T @ right)
    scaled = activation_moments(a, b, [x], spec, "correlation", "inputs", *rest)
    norms = left.norm() * right.norm() / 6
    assert torch.allclose(scaled["turn"], left.T @ right / norms)
    # Units that stay apart are centred; those that no example wakes in either are compared in front.
    left, right = (torch.relu(model.two(model.one(x))) for model in (a, b))
    asleep = ~(left > 0).any(0)[:, None] & ~(right > 0).any(0)
    left, right = left - left.mean(0), right - right.mean(0)
    assert torch.allclose(found["unit"] * ~asleep, left.T @ right)


def test_what_shows_up_nowhere_is_placed_by_its_weights() -> None:
    a, spec = linear()
    truth = Transforms.random(spec, 4)
    b = truth.inverse().apply(a)
    x = [torch.randn(40, 7, dtype=torch.float64)]
    match = lmc.activation_matching(a, b, x, spec)
    assert torch.allclose(match.choice["rank"], truth["rank"])
    assert worst(a, match.apply(b)) < 1e-8
    kept = lmc.activation_matching(a, b, x, spec, unseen="keep")
    assert torch.equal(kept.choice["rank"], torch.eye(3, dtype=torch.float64))
    assert torch.allclose(kept.choice["turn"], truth["turn"])
    with pytest.raises(ValueError, match="no operation shows the units of group 'rank'"):
        lmc.activation_matching(a, b, x, spec, unseen="raise")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_few_samples_do_not_show_is_turned_least(dtype: torch.dtype) -> None:
    a, spec = linear()
    a = a.to(dtype)
    # Four samples of six units: two directions are dead.
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    shown = a.one(x).detach().double()
    basis = torch.linalg.svd(shown)[2].T  # [units, units]: those that are seen first
    same = lmc.activation_matching(a, a, [x], spec).choice["turn"]
    assert torch.allclose(same, torch.eye(6, dtype=torch.float64), atol=1e-5)
    truth = Transforms.random(spec, 7)
    found = lmc.activation_matching(a, truth.inverse().apply(a), [x], spec).choice["turn"]
    seen, dead = basis[:, :4], basis[:, 4:]
    there = truth["turn"].T @ basis
    assert torch.allclose(found @ there[:, :4], seen, atol=1e-3)
    least = float(torch.linalg.matrix_norm(dead.T @ there[:, 4:], ord="nuc"))
    # Of all turns that do as much, none keeps more in place.
    assert float(found.trace()) == pytest.approx(float((seen @ there[:, :4].T).trace()) + least, abs=1e-2)


def test_places_where_units_do_not_turn_are_not_looked_at() -> None:
    model, spec = linear()
    wrong = PermutationSpec(
        {name: Group(name, group.size, kind="orthogonal") for name, group in spec.groups.items()}, spec.axes
    )
    weights, calls = Weights(model, wrong), Calls(model)
    batch = calls.read_one("batches", 0, torch.randn(50, 7, dtype=torch.float64))
    used = spots_used(model, calls, batch, weights, {})
    missed: dict[tuple[str, int], str] = {}
    steady = {(spot.parameter, spot.side) for spot in steady_spots(model, calls, batch, wrong, weights, used, missed)}
    # Behind the units that wake nothing turns as they would; before them all is well.
    assert steady == {("one.weight", "output"), ("two.weight", "input"), ("two.weight", "output")}
    assert ("three.weight", 1) in missed


def test_models_that_are_not_folded_are_refused() -> None:
    raw = vision()
    spec = raw.spec()
    a = lmc.fold_norms(raw, spec)
    for pair, argument in (((raw, a), "model_a"), ((a, raw), "model_b")):
        with pytest.raises(ValueError, match=rf"{argument} must be in pure form .*lmc.fold_norms\({argument}, spec\)"):
            lmc.activation_matching(*pair, [images(4)], spec)


@pytest.mark.parametrize(("norm", "rotary"), [pytest.param("layer", "", marks=pytest.mark.slow), ("rms", "halves")])
def test_what_is_derived_is_turned_back(norm: str, rotary: str) -> None:
    torch.manual_seed(2)
    raw = Decoder(norm, rotary).double()
    batches = [torch.randint(0, VOCABULARY, (60, 9), generator=torch.Generator().manual_seed(0))]
    spec = lmc.derive_spec(raw, batches[0][:2], rotations=True)
    assert not spec.only_permutes
    a = lmc.fold_norms(raw, spec)
    b = Transforms.random(spec, 1).inverse().apply(a)
    assert worst(a, lmc.activation_matching(a, b, batches, spec).apply(b)) < 1e-4


@pytest.mark.parametrize("name", slow_but(["vit", "gpt2", "llama"], lambda name: name == "llama"))
def test_models_of_transformers_are_turned_back(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    ids = torch.randint(0, 40, (60, 9))
    if name == "vit":
        config = transformers.ViTConfig(
            hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, image_size=8, patch_size=4
        )
        raw, inputs = transformers.ViTForImageClassification(config), torch.randn(60, 3, 8, 8, dtype=torch.float64)
    elif name == "gpt2":
        config = transformers.GPT2Config(
            n_embd=15, n_layer=2, n_head=3, n_inner=22, vocab_size=40, n_positions=9, bos_token_id=0, eos_token_id=0
        )
        config.use_cache = False
        raw, inputs = transformers.GPT2LMHeadModel(config), ids
    else:
        config = transformers.LlamaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6
        )
        config.intermediate_size, config.vocab_size, config.use_cache = 22, 40, False
        raw, inputs = transformers.LlamaForCausalLM(config), ids
    raw = raw.double().eval()
    with torch.no_grad():
        for parameter in raw.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    spec = lmc.derive_spec(raw, inputs[:2], rotations=True)
    a = lmc.fold_norms(raw, spec)
    b = Transforms.random(spec, 1).inverse().apply(a)
    assert worst(a, b) > 0.1
    assert worst(a, lmc.activation_matching(a, b, [inputs], spec).apply(b)) < 1e-4
