"""Model directories as data: what is read of them, and in which one sentence the rest is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from lmc_fast._extras import install_line
from lmc_fast.checkpoints.building import offline
from lmc_fast.checkpoints.directories import derive_spec_of, described

SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
BERT = {"architectures": ["BertModel"], "model_type": "bert", **SMALL}


def folder_of(path: Path, config: Any, name: str = "config.json") -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return path


class Stub(ModuleType):
    """A library without models: for what is refused before one would be built."""

    __version__ = "0"

    class PreTrainedModel(nn.Module):
        config_class: Any = None

    class ModelMixin(nn.Module):
        pass

    class Config:
        @classmethod
        def from_dict(cls, config: Any) -> Any:
            raise KeyError("hidden_size")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.BertModel = type("BertModel", (self.PreTrainedModel,), {"config_class": self.Config})
        self.CONFIG_MAPPING = {"headless": type("Headless", (), {"from_dict": classmethod(lambda cls, c: cls())})}
        self.MODEL_MAPPING: dict[Any, Any] = {}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "diffusers"):
        monkeypatch.setitem(sys.modules, name, Stub(name))


REFUSED: dict[str, tuple[Any, str]] = {
    "cut off": ('{"architectures": ["Be', "is no complete JSON"),
    "a list": ("[]", "must hold a JSON object"),
    "code of its own": (
        {**BERT, "auto_map": {"AutoModel": "modeling.X"}},
        "names code of its own (auto_map), and noth",
    ),
    "no such class": ({**BERT, "architectures": ["BertMODEL"]}, "'BertMODEL', and transformers 0 has no model of"),
    "a class that is no model": ({**BERT, "architectures": ["Config"]}, "'Config', and transformers 0 has no model of"),
    "a class by its path": ({**BERT, "architectures": ["os.system"]}, "'os.system', and transformers 0 has no model"),
    "a class that is no list": ({**BERT, "architectures": "BertModel"}, "as a list under architectures"),
    "nothing named": ({"hidden_size": 3}, "names neither a class (architectures) nor a model_type"),
    "a type that is not known": ({"model_type": "tree"}, "knows, got 'tree'"),
    "a type without a model": ({"model_type": "headless"}, "of a model_type without a model of its own, 'headless'"),
    "no such class of diffusers": ({"_class_name": "UNet9DModel"}, "'UNet9DModel', and diffusers 0 has no model of"),
    "a class of diffusers that is no text": ({"_class_name": 3}, "class 3, and diffusers 0 has no model of that name"),
    "what the library does not take": (BERT, "is not one that transformers takes: KeyError: 'hidden_size'"),
}


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_configuration_that_makes_no_model_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        described(folder_of(tmp_path / "m", config))
    assert message in str(caught.value) and "config.json" in str(caught.value)


def test_what_is_no_model_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        described(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file' is a file, and no folder"):
        described(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        described(tmp_path)
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        described(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="trust_remote_code must be True or False, got 'yes'"):
        described(tmp_path, trust_remote_code="yes")  # type: ignore[arg-type]


def test_a_pipeline_names_its_parts(tmp_path: Path) -> None:
    pipeline = folder_of(tmp_path / "p", {"_class_name": "StableDiffusionPipeline"}, "model_index.json")
    folder_of(pipeline / "vae", {"_class_name": "AutoencoderKL"})
    folder_of(pipeline / "unet", {"_class_name": "UNet2DConditionModel"})
    with pytest.raises(ValueError, match="is a pipeline of several models, 'unet', 'vae': give the folder of one"):
        described(pipeline)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds an adapter, and no model"):
        described(folder_of(tmp_path / "a", {"peft_type": "LORA"}, "adapter_config.json"))


@pytest.mark.parametrize("library", ["transformers", "diffusers"])
def test_a_library_that_is_missing_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    config = BERT if library == "transformers" else {"_class_name": "UNet2DModel"}
    with pytest.raises(ImportError) as caught:
        described(folder_of(tmp_path / "m", config))
    assert str(caught.value) == f"this needs {library}, which is not installed: {install_line('models')}"


def test_the_libraries_ask_no_server_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = ModuleType("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    with pytest.raises(KeyError), offline():
        assert constants.HF_HUB_OFFLINE
        raise KeyError
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    with offline():
        pass


# With the libraries themselves.


def saved(path: Path, model: Any, **options: Any) -> Path:
    model.save_pretrained(path, **options)
    return path


def stored(folder: Path, files: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def test_a_bert_is_described_and_derived_without_its_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel(transformers.BertConfig(**SMALL))
    found = described(saved(tmp_path / "m", model, max_shard_size="10KB"))
    assert (found.library, found.architecture, found.config["hidden_size"]) == ("transformers", "BertModel", 24)
    assert {tensor.device.type for tensor in found.module.state_dict().values()} == {"meta"}
    assert not found.module.training
    assert len(found.shards.files) > 2 and found.shards.index == "model.safetensors.index.json"
    assert found.tensors.keys() == model.state_dict().keys()
    spec = derive_spec_of(tmp_path / "m")
    tried = lmc.derive_spec(model, found.example_inputs)
    assert spec == tried
    assert tried.verified is not None


def test_a_folder_without_weights_is_described_by_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = described(folder_of(tmp_path / "m", BERT))
    assert not found.tensors
    with pytest.raises(ValueError, match="holds no weights"):
        found.conversions()
    built = found.build()
    assert {tensor.device.type for tensor in built.state_dict().values()} == {"cpu"}
    by_type = described(folder_of(tmp_path / "m", {key: BERT[key] for key in BERT if key != "architectures"}))
    assert by_type.architecture == "BertModel"


def test_stacked_experts_come_from_single_ones_and_go_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=3)
    model = transformers.MixtralForCausalLM(config)
    found = described(saved(tmp_path / "m", model))
    own, held = model.state_dict(), stored(tmp_path / "m", found.shards.files)
    seen: set[str] = set()
    for each in found.conversions():
        made = each.load({name: held[name] for name in each.sources})
        assert tuple(made) == each.targets
        assert all(torch.equal(tensor, own[name]) for name, tensor in made.items())
        back = each.store(made)
        assert back.keys() == set(each.sources)
        assert all(torch.equal(tensor, held[name]) for name, tensor in back.items())
        seen |= made.keys()
    assert seen == own.keys()
    assert sum(not each.is_plain for each in found.conversions()) == 4


def test_a_tied_head_need_not_be_stored(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True))
    found = described(saved(tmp_path / "m", model))
    targets = {name for each in found.conversions() for name in each.targets}
    assert set(model.state_dict()) - targets == {"lm_head.weight"}


def test_a_class_may_be_named_that_has_a_place_for_all(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = saved(tmp_path / "m", transformers.BertForPreTraining(transformers.BertConfig(**SMALL)))
    for name, message in (
        ("BertModel", r"holds 'cls\.predictions\.bias', which BertModel has no place for: name a class"),
        ("BertForTokenClassification", r"which BertForTokenClassification has no place for"),
    ):
        with pytest.raises(ValueError, match=message):
            described(folder, architecture=name).conversions()
    base = saved(tmp_path / "base", transformers.BertModel(transformers.BertConfig(**SMALL)))
    with pytest.raises(ValueError, match=r"lacks 'cls\.predictions\.bias', which BertForPreTraining has"):
        described(base, architecture="BertForPreTraining").conversions()
    names = {each.sources[0]: each.targets[0] for each in described(base).conversions()}
    assert all(source == target for source, target in names.items())
    # A file of the whole, with the head's prefix, serves the model inside where nothing is left over.
    whole = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    folder = saved(tmp_path / "whole", whole)
    names = {each.sources[0]: each.targets[0] for each in described(folder).conversions()}
    assert names.keys() == whole.state_dict().keys()
    with pytest.raises(TypeError, match="architecture must be the name of a class, got 3"):
        described(folder, architecture=3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_unet_of_diffusers_is_described(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    found = described(saved(tmp_path / "m", model))
    assert (found.library, found.architecture) == ("diffusers", "UNet2DModel")
    assert found.shards.files == ("diffusion_pytorch_model.safetensors",)
    held = stored(tmp_path / "m", found.shards.files)
    made = {name: t for each in found.conversions() for name, t in each.load(held).items()}
    assert all(torch.equal(made[name], tensor) for name, tensor in model.state_dict().items())
    assert derive_spec_of(tmp_path / "m").groups
    with pytest.raises(ValueError, match="'UNet9DModel', and diffusers"):
        described(tmp_path / "m", architecture="UNet9DModel")


CODE = """
from transformers import PretrainedConfig, PreTrainedModel
from torch import nn
from pathlib import Path

Path(__file__).with_name("RAN").touch()


class TwoLayersConfig(PretrainedConfig):
    model_type = "two_layers"

    def __init__(self, width=7, **options):
        super().__init__(**options)
        self.width = width


class TwoLayers(PreTrainedModel):
    config_class = TwoLayersConfig

    def __init__(self, config):
        super().__init__(config)
        self.first, self.last = nn.Linear(4, config.width), nn.Linear(config.width, 3)
        self.post_init()

    def forward(self, x):
        return self.last(self.first(x).relu())
"""


def test_code_of_a_folder_is_run_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "cache")])
    code = {"AutoConfig": "modeling.TwoLayersConfig", "AutoModel": "modeling.TwoLayers"}
    folder = folder_of(tmp_path / "own", {"model_type": "two_layers", "width": 9, "auto_map": code})
    (folder / "modeling.py").write_text(CODE)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        described(folder)
    assert not list(tmp_path.rglob("RAN"))
    found = described(folder, trust_remote_code=True, example_inputs=torch.zeros(2, 4))
    assert list(tmp_path.rglob("RAN"))
    assert lmc.derive_spec(found.module, found.example_inputs).sizes == {"first": 9}
    with pytest.raises(ValueError, match="give example_inputs \\(--input\\) with 'x'"):
        described(folder, trust_remote_code=True)
    for wrong, message in (
        ({"AutoConfig": "modeling.TwoLayersConfig"}, "names no model under auto_map"),
        ("modeling.TwoLayers", "must have an object under auto_map"),
        ({"AutoConfig": "modeling.Nothing", "AutoModel": "modeling.TwoLayers"}, "is not one that transformers takes"),
        ({"AutoConfig": "some/repo--x.C", "AutoModel": "some/repo--x.M"}, "is not one that transformers takes"),
    ):
        folder_of(folder, {"model_type": "two_layers", "auto_map": wrong})
        with pytest.raises(ValueError, match=message):
            described(folder, trust_remote_code=True)


def test_a_configuration_that_makes_no_module_is_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {**BERT, "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": -3}
    with pytest.raises(ValueError, match=r"config\.json' (makes no ViTModel|is not one that transformers takes)"):
        described(folder_of(tmp_path / "m", config))
