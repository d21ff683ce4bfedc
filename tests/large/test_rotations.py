"""Checkpoints with rotations: folded by file, turned and summed as in memory, untied where they have to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment, Transforms
from lmc_fast.checkpoints.directories import ModelDirectory
from lmc_fast.checkpoints.shards import shards_of
from lmc_fast.cli import cli
from lmc_fast.large import inputs, plan_merge
from lmc_fast.matching.engine.turning import TurningDescent
from lmc_fast.symmetry import Fold, Reader

from . import models


def turning_spec() -> PermutationSpec:
    """As `models.spec`, with a stream and value dimensions that turn, and norms that are folded."""
    plain = models.spec()
    kinds = {"D": "orthogonal", "v0": "orthogonal", "v1": "orthogonal"}
    groups = {n: Group(n, g.size, g.owner, kinds.get(n, "permutation")) for n, g in plain.groups.items()}
    axes = {n: (None,) if n.endswith("norm.weight") else a for n, a in plain.axes.items()}
    folds = [
        Fold(f"{k}.norm.weight", tuple(Reader(f"{k}.{part}.weight", 1) for part in ("q", "k", "v", "up")))
        for k in range(models.LAYERS)
    ]
    folds.append(Fold("norm.weight", (Reader("head.weight", 1),)))
    return PermutationSpec.from_axes(axes, groups.values(), folds=folds)  # type: ignore[arg-type]


def turned(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A turned copy with noise, and with norms of its own."""
    spec = turning_spec().bind(state)
    pure = lmc.fold_norms(dict(state), spec)
    copy = Transforms.random(spec, seed).apply(pure)
    generator = torch.Generator().manual_seed(seed)
    copy = {n: x + 0.05 * torch.randn(x.shape, generator=generator) for n, x in copy.items()}
    for name in copy:
        if name.endswith("norm.weight"):
            copy[name] = torch.rand(copy[name].shape, generator=generator) + 0.5
    return copy


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    a = models.weights(0)
    paths = [tmp_path / name for name in "AB"]
    for path, state in zip(paths, (a, turned(a, 1)), strict=True):
        models.write_directory(path, state, shards=2)
    return paths[0], paths[1]


def folded(path: Path) -> dict[str, Tensor]:
    return lmc.fold_norms(models.read_directory(path), turning_spec())


@pytest.mark.parametrize("method", ["wm", pytest.param("merge_many", marks=pytest.mark.slow)])
def test_a_merge_by_file_is_that_in_memory(two: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    result = lmc.merge_checkpoints(*two, out=tmp_path / "out", spec=turning_spec(), method=method)
    a, b = map(folded, two)
    (match,) = result.matches
    assert isinstance(match.choice, Transforms) and match.l2_after < 0.5 * match.l2_before
    wanted = lmc.interpolate(a, b, 0.5, match)
    found = models.read_directory(tmp_path / "out")
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
    assert torch.equal(found["0.norm.weight"], torch.ones(models.HIDDEN))
    if method == "wm":
        alone = lmc.weight_matching(a, b, turning_spec())
        assert match.objective == pytest.approx(alone.objective, rel=1e-6)
    (kept,) = (tmp_path / "out" / "lmc_fast").glob("*.safetensors")
    assert lmc.Matching.load(kept).choice == match.choice
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "permuted and turned first" in card and f"of {match.choice.total} |" in card
    assert all(torch.equal(models.read_directory(two[0])[name], x) for name, x in models.weights(0).items())


def test_half_precision_is_rounded_with_the_sum(tmp_path: Path) -> None:
    a = models.weights(0)
    states = [{n: x.to(torch.bfloat16) for n, x in s.items()} for s in (a, turned(a, 2))]
    paths = [models.write_directory(tmp_path / name, s) for name, s in zip("AB", states, strict=True)]
    result = lmc.merge_checkpoints(*paths, out=tmp_path / "out", spec=turning_spec(), lam=0.25)
    pure = [folded(path) for path in paths]
    found = models.read_directory(tmp_path / "out")
    for name, tensor in pure[0].items():
        moved = pure[1][name].double()
        if name in turning_spec().axes:
            moved = result.matches[0].choice.apply_to(name, moved)
        exact = 0.75 * tensor.double() + 0.25 * moved
        assert found[name].dtype == torch.bfloat16
        assert bool(((found[name].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()), name


def test_an_aligned_model_is_written_by_itself(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = lmc.merge_checkpoints(*two, out=tmp_path / "out", spec=turning_spec(), align_only=True)
    found = models.read_directory(tmp_path / "out")
    wanted = result.matches[0].apply(folded(two[1]))
    assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in wanted.items())
    assert "permuted and turned to lie over" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["wm", pytest.param("merge_many", marks=pytest.mark.slow)])
def test_what_was_matched_is_not_matched_again(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    whole = tmp_path / "whole"
    lmc.merge_checkpoints(*two, out=whole, spec=turning_spec(), method=method)
    options: dict[str, Any] = {"out": tmp_path / "out", "spec": turning_spec(), "method": method}
    with monkeypatch.context() as patched:
        patched.setattr("lmc_fast.large.run.write_shards", stop)
        with pytest.raises(KeyboardInterrupt):
            lmc.merge_checkpoints(*two, **options)
    # What was folded and found is in files.
    monkeypatch.setattr(TurningDescent, "settle", stop)
    monkeypatch.setattr("lmc_fast.large.turned.match_many", stop)
    monkeypatch.setattr("lmc_fast.symmetry.PureForm.tensor", stop)
    lmc.merge_checkpoints(*two, **options, resume=True)
    assert models.contents(tmp_path / "out") == models.contents(whole)


def test_a_fine_tune_is_carried_over(two: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = two
    generator = torch.Generator().manual_seed(7)
    state = {n: x + 0.1 * torch.randn(x.shape, generator=generator) for n, x in models.read_directory(base).items()}
    tuned = models.write_directory(tmp_path / "tuned", state)
    result = lmc.rebase_checkpoints(tuned, base, new, out=tmp_path / "out", spec=turning_spec(), alpha=0.5)
    wanted = lmc.rebase(folded(tuned), folded(base), folded(new), result.matches[0], alpha=0.5)
    found = models.read_directory(tmp_path / "out")
    assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in wanted.items())
    assert "by permutation and rotation" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_an_adapter_goes_from_one_norms_gain_to_anothers(two: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = two
    generator = torch.Generator().manual_seed(3)
    sizes = {"0.q": (models.HIDDEN, models.HIDDEN), "1.down": (models.UNITS, models.HIDDEN), "head": (12, models.WORDS)}
    factors = {}
    for name, (fan_in, fan_out) in sizes.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, fan_in, generator=generator)
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(fan_out, 2, generator=generator)
    (tmp_path / "lora").mkdir()
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    result = lmc.rebase_checkpoints(tmp_path / "lora", base, new, out=tmp_path / "out", spec=turning_spec())
    carried = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert carried.keys() == factors.keys()

    def added(path: Path, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an adapter adds to the model on disk, in pure form."""
        state = models.read_directory(path)
        for name in sizes:
            at = f"base_model.model.{name}.lora_"
            state[f"{name}.weight"] = state[f"{name}.weight"] + of[f"{at}B.weight"] @ of[f"{at}A.weight"]
        pure, before = lmc.fold_norms(state, turning_spec()), folded(path)
        return {f"{name}.weight": pure[f"{name}.weight"] - before[f"{name}.weight"] for name in sizes}

    wanted, found = added(base, factors), added(new, carried)
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], result.matches[0].choice.apply_to(name, tensor), atol=1e-4), name
    # Factors that were turned alone would add something else.
    assert not torch.allclose(added(new, factors)["0.q.weight"], found["0.q.weight"], atol=0.1)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(new) and "lora_bias" not in config


def test_what_takes_permutations_alone_says_so(two: tuple[Path, Path], tmp_path: Path) -> None:
    for options in ({"method": "c2m3"}, {"search": "frank_wolfe"}):
        with pytest.raises(ValueError, match="takes groups of permutations alone, but 'D' is of kind 'orthogonal'"):
            lmc.merge_checkpoints(*two, out=tmp_path / "out", spec=turning_spec(), **options)
    with pytest.raises(ValueError, match="freeze beside method='merge_many' takes groups of permutations alone"):
        lmc.merge_checkpoints(*two, out=tmp_path / "out", spec=turning_spec(), method="merge_many", freeze=["D"])
    assert not (tmp_path / "out").exists()


def test_the_plan_is_told(two: tuple[Path, Path]) -> None:
    assert "D" in str(plan_merge(*two, spec=turning_spec(), calibrate=False))


class Tied(nn.Module):
    """Embeddings that the output reads behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, 6), nn.RMSNorm(6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        stream = self.embed(words)
        return {"logits": self.head(self.norm(stream + self.down(self.up(stream).relu())))}

    @staticmethod
    def spec() -> PermutationSpec:
        return PermutationSpec.from_axes(
            {
                "embed.weight": (None, "D"),
                "norm.weight": (None,),
                "up.weight": ("F", "D"),
                "up.bias": ("F",),
                "down.weight": ("D", "F"),
                "down.bias": ("D",),
                "head.weight": (None, "D"),
            },
            [Group("D", kind="orthogonal"), Group("F")],
            folds=[Fold("norm.weight", (Reader("head.weight", 1, tied="embed.weight"),))],
        )


def stored(model: nn.Module) -> dict[str, Tensor]:
    return {n: x.contiguous() for n, x in model.state_dict().items() if n != "head.weight"}


@pytest.mark.parametrize("held", ["embed.weight", "head.weight"])
def test_tied_tensors_are_two_in_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    def described(path: Path, *, trust_remote_code: bool = False) -> ModelDirectory:
        with torch.device("meta"):
            module = Tied().eval()
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        example = {"words": torch.arange(9).reshape(1, 9)}
        return ModelDirectory(path, "transformers", "Tied", config, module, example, shards_of(path), Tied)

    monkeypatch.setattr(inputs, "described", described)
    torch.manual_seed(0)
    originals = [Tied().eval() for _ in range(2)]
    for name, model in zip("AB", originals, strict=True):
        with torch.no_grad():
            model.norm.weight.uniform_(0.5, 2.0)
        (tmp_path / name).mkdir()
        config = {"architectures": ["Tied"], "tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        state = stored(model)
        state[held] = state.pop("embed.weight")
        save_file(state, tmp_path / name / "model.safetensors")
    spec = Tied.spec()
    spec.to_json(tmp_path / "spec.json")
    result = lmc.merge_checkpoints(
        tmp_path / "A", tmp_path / "B", out=tmp_path / "out", spec=tmp_path / "spec.json", align_only=True
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["tie_word_embeddings"] is False and config["text_config"]["tie_word_embeddings"] is False
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert not torch.equal(found["head.weight"], found["embed.weight"])
    output = Tied().eval()
    output.head.weight = nn.Parameter(torch.zeros(9, 6))
    output.load_state_dict(found)
    words = torch.arange(9).reshape(1, 9)
    assert torch.allclose(output(words)["logits"], originals[1](words)["logits"], atol=1e-5)
    assert result.matches[0].l2_after < result.matches[0].l2_before


def llama_spec(model: nn.Module, heads: int, queries: int, dims: int) -> PermutationSpec:
    """Of a Llama by transformers: rotary planes and values of key/value heads, a stream, units."""
    names = [n for n, _ in model.named_parameters()]
    layers = 1 + max(int(n.split(".")[2]) for n in names if n.startswith("model.layers."))
    axes: dict[str, Any] = {"model.embed_tokens.weight": (None, "D"), "lm_head.weight": (None, "D")}
    groups, folds = [Group("D", kind="orthogonal")], []
    for k in range(layers):
        at = f"model.layers.{k}."
        plane, value = Segment(f"plane{k}", outer=2), Segment(f"value{k}")
        groups += [
            Group(f"kv{k}", heads),
            Group(f"query{k}", queries, f"kv{k}"),
            Group(f"plane{k}", dims // 2, f"kv{k}", "phases"),
            Group(f"value{k}", dims, f"kv{k}", "orthogonal"),
        ]
        axes |= {
            f"{at}self_attn.q_proj.weight": (Segment(f"kv{k}", inner=(Segment(f"query{k}", inner=(plane,)),)), "D"),
            f"{at}self_attn.k_proj.weight": (Segment(f"kv{k}", inner=(plane,)), "D"),
            f"{at}self_attn.v_proj.weight": (Segment(f"kv{k}", inner=(value,)), "D"),
            f"{at}self_attn.o_proj.weight": ("D", Segment(f"kv{k}", inner=(Segment(f"query{k}", inner=(value,)),))),
            f"{at}mlp.gate_proj.weight": (f"unit{k}", "D"),
            f"{at}mlp.up_proj.weight": (f"unit{k}", "D"),
            f"{at}mlp.down_proj.weight": ("D", f"unit{k}"),
        }
        readers = {
            "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        }
        for norm, parts in readers.items():
            folds.append(Fold(f"{at}{norm}.weight", tuple(Reader(f"{at}{part}.weight", 1) for part in parts)))
            axes[f"{at}{norm}.weight"] = (None,)
    axes["model.norm.weight"] = (None,)
    folds.append(Fold("model.norm.weight", (Reader("lm_head.weight", 1, tied="model.embed_tokens.weight"),)))
    return PermutationSpec.from_axes(axes, groups, folds=folds)


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True], ids=["untied", "tied"])
def test_a_llama_is_loaded_and_computes_what_it_should(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 22, "vocab_size": 29, "num_hidden_layers": 2, "head_dim": 4}
    config = transformers.LlamaConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied
    )
    originals = []
    for k, name in enumerate("AB"):
        torch.manual_seed(k)
        model = transformers.LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "norm" in parameter_name:
                    parameter.uniform_(0.5, 1.5)
        model.save_pretrained(tmp_path / name)
        originals.append(model)
    spec = llama_spec(originals[0], heads=2, queries=2, dims=4)
    words = torch.arange(20).reshape(2, 10)
    lmc.merge_checkpoints(tmp_path / "A", tmp_path / "B", out=tmp_path / "aligned", spec=spec, align_only=True)
    aligned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "aligned")
    assert not aligned.config.tie_word_embeddings
    with torch.no_grad():
        assert torch.allclose(aligned(words).logits, originals[1](words).logits, atol=1e-5)
    result = lmc.merge_checkpoints(tmp_path / "A", tmp_path / "B", out=tmp_path / "merged", spec=spec)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    pure = [lmc.fold_norms(model, spec) for model in originals]
    wanted = lmc.interpolate(*pure, 0.5, result.matches[0])
    with torch.no_grad():
        assert torch.allclose(merged(words).logits, wanted(words).logits, atol=1e-5)
    carried = lmc.rebase_checkpoints(
        tmp_path / "B", tmp_path / "B", tmp_path / "A", out=tmp_path / "carried", spec=spec, alpha=2.0
    )
    # Nothing was tuned: the new model itself, in pure form.
    same = transformers.AutoModelForCausalLM.from_pretrained(carried.out)
    with torch.no_grad():
        assert torch.allclose(same(words).logits, originals[0](words).logits, atol=1e-5)


def test_rotations_are_looked_for_where_the_spec_is_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(path: Path, *, trust_remote_code: bool = False) -> ModelDirectory:
        with torch.device("meta"):
            module = Tied().eval()
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        example = {"words": torch.arange(9).reshape(1, 9)}
        return ModelDirectory(path, "transformers", "Tied", config, module, example, shards_of(path), Tied)

    monkeypatch.setattr(inputs, "described", described)
    torch.manual_seed(0)
    paths = [tmp_path / name for name in "AB"]
    for path in paths:
        path.mkdir()
        (path / "config.json").write_text('{"architectures": ["Tied"]}', encoding="utf-8")
        save_file(stored(Tied()), path / "model.safetensors")
    plans = [str(plan_merge(*paths, rotations=turns, calibrate=False)) for turns in (False, True)]
    assert plans[0] != plans[1]
    result = lmc.merge_checkpoints(*paths, out=tmp_path / "out", rotations=True)
    choice = result.matches[0].choice
    assert isinstance(choice, Transforms) and "1 orthogonal" in choice.summary
    assert "head.weight" in load_file(tmp_path / "out" / "model.safetensors")
    ran = CliRunner().invoke(
        cli, ["rebase", *map(str, (paths[1], paths[1], paths[0])), "-o", str(tmp_path / "on"), "--rotations"]
    )
    assert ran.exit_code == 0, ran.output
    ran = CliRunner().invoke(cli, ["merge", *map(str, paths), "-o", str(tmp_path / "again"), "--rotations"])
    assert ran.exit_code == 0, ran.output
    assert models.read_directory(tmp_path / "again").keys() == models.read_directory(tmp_path / "out").keys()
    with pytest.raises(ValueError, match="rotations are looked for where a spec is derived, and one was given"):
        lmc.merge_checkpoints(*paths, out=tmp_path / "no", spec=Tied.spec(), rotations=True)
