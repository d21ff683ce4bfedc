"""A model directory as data: what `save_pretrained` of transformers or diffusers wrote, with nothing in it run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .._checks import check_type
from .._modes import neutral
from ..symmetry import PermutationSpec, derive_spec
from .building import FAILURES, Maker, maker, offline, on_meta
from .conversions import Conversion, conversions_of
from .examples import diffusers_inputs, transformers_inputs
from .headers import StoredTensor
from .shards import Shards, read_json, shards_of

__all__ = ["ModelDirectory", "derive_spec_of", "described"]

CONFIG, PIPELINE, ADAPTER = "config.json", "model_index.json", "adapter_config.json"


@dataclass(frozen=True, eq=False)
class ModelDirectory:
    """A model directory, read without its weights.

    Attributes:
        path: of the folder.
        library: "transformers" or "diffusers".
        architecture: name of the class.
        config: what config.json says.
        module: the model on the meta device, in eval mode.
        example_inputs: keyword arguments of a forward pass, small, on the CPU.
        shards: where the weights are, by the names that the files have; without any `shards.why_none` says why.
        make: builds the module anew on the default device, at random weights.
    """

    path: Path
    library: str
    architecture: str
    config: Mapping[str, Any]
    module: nn.Module
    example_inputs: Any
    shards: Shards
    make: Maker

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The file, dtype and shape of every stored tensor, by the name that it has there."""
        return self.shards.tensors

    def conversions(self) -> tuple[Conversion, ...]:
        """How stored tensors become those of the module's state dict, which a spec names: most often as they are.

        Raises:
            ValueError: there are no weights, or not those of the configuration; the message names the tensor.
        """
        if self.shards.why_none:
            raise ValueError(self.shards.why_none)
        return conversions_of(self.module, self.tensors, f"directory {str(self.path)!r}")

    def build(self) -> nn.Module:
        """The module at random weights, on the default device."""
        with offline():
            return self.make().eval()


@neutral
def described(
    path: str | Path,
    *,
    architecture: str | None = None,
    example_inputs: Any = None,
    trust_remote_code: bool = False,
) -> ModelDirectory:
    """Read a model directory of transformers or diffusers: its configuration, its module without weights, its files.

    Nothing is downloaded, no pickle is read, and no code in the folder is run.

    Args:
        path: of a folder with config.json; weights, if any, are in model.safetensors or
            diffusion_pytorch_model.safetensors, whole or in shards with an index. Links are followed, as in the hub's
            cache.
        architecture: name of the class, in place of the one that config.json names: a file may hold more than that has
            a place for (BertForPreTraining in place of BertForMaskedLM).
        example_inputs: what a forward pass takes, as `derive_spec` has it, in place of what is read off the
            configuration.
        trust_remote_code: run the code in the folder that config.json names under auto_map, if it does.

    Raises:
        TypeError: an argument of the wrong kind.
        FileNotFoundError: no such folder, or none with a config.json.
        ImportError: transformers or diffusers is not installed; the message says how to.
        ValueError: a configuration that is none, that names no class or one that the library lacks, or code of its own;
            a folder of several models; an index or a shard that is not what it should be; a model for which example
            inputs have to be given. The message names the file.
    """
    check_type("path", path, (str, Path), "a path")
    check_type("trust_remote_code", trust_remote_code, bool, "True or False")
    if architecture is not None:
        check_type("architecture", architecture, str, "the name of a class")
    folder = Path(path)
    config = _config_of(folder)
    library, kind, make = maker(folder, _with_class(config, architecture), trust_remote_code)
    shards = shards_of(folder)
    try:
        module = on_meta(make)
    except FAILURES as error:
        raise ValueError(
            f"configuration {str(folder / CONFIG)!r} makes no {kind}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error
    if example_inputs is None:
        example_inputs = (transformers_inputs if library == "transformers" else diffusers_inputs)(module)
    return ModelDirectory(folder, library, kind, config, module, example_inputs, shards, make)


def derive_spec_of(path: str | Path, **options: Any) -> PermutationSpec:
    """The spec of a model directory, by the names of its module's state dict; without its weights, and not verified.

    Arguments and errors are those of `described` and `derive_spec`.
    """
    found = described(path, **options)
    return derive_spec(found.module, found.example_inputs)


def _with_class(config: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    if name is None:
        return config
    return {**config, "_class_name": name} if "_class_name" in config else {**config, "architectures": [name]}


def _config_of(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file, and no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"model directory {str(folder)!r} {what}")
    if (folder / CONFIG).is_file():
        return read_json(folder / CONFIG, "configuration")
    if (folder / PIPELINE).is_file():
        parts = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG}"))
        named = ", ".join(map(repr, parts)) or "none of which has a config.json"
        raise ValueError(
            f"model directory {str(folder)!r} is a pipeline of several models, {named}: give the folder of one of them"
        )
    if (folder / ADAPTER).is_file():
        raise ValueError(f"model directory {str(folder)!r} holds an adapter, and no model: give the model's own folder")
    raise FileNotFoundError(f"model directory {str(folder)!r} has no {CONFIG}")
