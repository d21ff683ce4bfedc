"""A module from a model directory's configuration, by the class of `transformers` or `diffusers` that it names.

Nothing is downloaded: the configuration is read as data, and the libraries are told that they are offline.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._extras import require

__all__ = ["EXTRA", "FAILURES", "Maker", "maker", "offline", "on_meta"]

# The extra that brings both libraries.
EXTRA = "models"
# What a library raises of a configuration that it does not take.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)

Maker = Callable[[], nn.Module]


def maker(folder: Path, config: Mapping[str, Any], trust_remote_code: bool) -> tuple[str, str, Maker]:
    """The library, the name of the class, and what makes the module, on the device that is the default then.

    Args:
        folder: for messages, and for code of its own.
        config: the configuration's entries.
        trust_remote_code: whether code in the folder may be run.

    Raises:
        ImportError: the library is not installed.
        ValueError: the configuration names no class, one that the library lacks, or code of its own.
    """
    if "_class_name" in config:
        return "diffusers", *_of_diffusers(folder, config)
    return "transformers", *_of_transformers(folder, config, trust_remote_code)


def _of_diffusers(folder: Path, config: Mapping[str, Any]) -> tuple[str, Maker]:
    library = require("diffusers", EXTRA)
    name = config["_class_name"]
    kind = getattr(library, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, library.ModelMixin)):
        raise ValueError(
            f"configuration {str(folder / 'config.json')!r} names class {name!r}, and diffusers {library.__version__} "
            "has no model of that name"
        )
    return str(name), lambda: kind.from_config(dict(config))  # type: ignore[attr-defined]


def _of_transformers(folder: Path, config: Mapping[str, Any], trust_remote_code: bool) -> tuple[str, Maker]:
    where = f"configuration {str(folder / 'config.json')!r}"
    if config.get("auto_map") and not trust_remote_code:
        raise ValueError(
            f"{where} names code of its own (auto_map), and nothing in it was run: if you trust it, say so with "
            "trust_remote_code=True (--trust-remote-code)"
        )
    library = require("transformers", EXTRA)
    if config.get("auto_map"):
        return _of_own_code(folder, config, library)
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} must name its classes as a list under architectures, got {names!r}")
    classes: list[Any] = [getattr(library, name, None) for name in names]
    kinds = [kind for kind in classes if _is_model(kind, library)]
    if names and not kinds:
        raise ValueError(
            f"{where} names class {names[0]!r}, and transformers {library.__version__} has no model of that name"
        )
    model_type = config.get("model_type")
    known = library.CONFIG_MAPPING
    if kinds:
        of_config = kinds[0].config_class
    elif isinstance(model_type, str) and model_type in known:
        of_config = known[model_type]
    else:
        raise ValueError(
            f"{where} names neither a class (architectures) nor a model_type that transformers {library.__version__} "
            f"knows, got {model_type!r}"
        )
    read = _checked(where, lambda: of_config.from_dict(_without_pretrained(config)))
    if not kinds:
        of_models = library.MODEL_MAPPING
        if type(read) not in of_models:
            raise ValueError(f"{where} is of a model_type without a model of its own, {model_type!r}")
        found = of_models[type(read)]
        kinds = [found[0] if isinstance(found, (tuple, list)) else found]
    return kinds[0].__name__, lambda: _made(kinds[0], of_config.from_dict(_without_pretrained(config)))


def _of_own_code(folder: Path, config: Mapping[str, Any], library: Any) -> tuple[str, Maker]:
    """A model whose code lies in its folder; the caller has said that it may be run."""
    code = config["auto_map"]
    if not isinstance(code, Mapping):
        raise ValueError(f"configuration {str(folder / 'config.json')!r} must have an object under auto_map")
    entry = next((key for key in code if key.startswith("AutoModel")), None)
    if entry is None or "AutoConfig" not in code:
        raise ValueError(f"configuration {str(folder / 'config.json')!r} names no model under auto_map")
    dynamic = importlib.import_module("transformers.dynamic_module_utils")

    def loaded(reference: Any) -> Any:
        reference = reference[0] if isinstance(reference, list) else reference
        return dynamic.get_class_from_dynamic_module(reference, str(folder), local_files_only=True)

    where = f"configuration {str(folder / 'config.json')!r}"
    with offline():
        of_config, kind = _checked(where, lambda: [loaded(code[key]) for key in ("AutoConfig", entry)])
    return kind.__name__, lambda: _made(kind, of_config.from_dict(dict(config)))


def _made(kind: Any, config: Any) -> nn.Module:
    """A model of transformers in the form whose graph says most.

    A cache of keys and values is an object that no graph can have as an output; of the ways to compute experts only one
    keeps them in an axis of their own.
    """
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = "batched_mm"
    module: nn.Module = kind._from_config(config)
    for part in module.modules():
        if getattr(getattr(part, "config", None), "use_cache", False):
            part.config.use_cache = False  # type: ignore[union-attr]
    return module


def _checked(where: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except FAILURES as error:
        raise ValueError(f"{where} is not one that transformers takes: {type(error).__name__}: {error}") from error


def _is_model(kind: object, library: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, library.PreTrainedModel)


def _without_pretrained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, with no wish for weights that lie elsewhere (a backbone's), in its parts as well."""
    made = {key: _without_pretrained(entry) if isinstance(entry, dict) else entry for key, entry in config.items()}
    if made.get("use_pretrained_backbone"):
        made["use_pretrained_backbone"] = False
    return made


@contextmanager
def offline() -> Iterator[None]:
    """Have Hugging Face's libraries refuse to ask any server."""
    with ExitStack() as stack:
        try:
            constants: Any = importlib.import_module("huggingface_hub.constants")
        except ImportError:
            yield
            return
        before = constants.HF_HUB_OFFLINE
        stack.callback(setattr, constants, "HF_HUB_OFFLINE", before)
        constants.HF_HUB_OFFLINE = True
        yield


def on_meta(make: Maker) -> nn.Module:
    """The module without its weights."""
    with offline(), torch.device("meta"):
        return make().eval()
