"""Trained models, kept on disk under everything that decided them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .._extras import require
from .._progress import Progress
from ..checkpoints import save_checkpoint
from .datasets import Dataset
from .processes import one_thread
from .recipes import Recipe
from .training import train
from .transformers import TransformerRecipe

__all__ = ["ModelCache"]

# Raised where training or the files change, for older entries not to be taken.
FORMAT = 1


class ModelCache:
    """A folder of trained models, each a safetensors file with its recipe as JSON in the header.

    An entry is used only if its whole key and a hash of its tensors are what they should be; one that is damaged, or
    another's under the same name, is trained again, and `say` is told. Files are written aside and renamed. Recipes are
    of small models, which are trained on one thread.

    Args:
        folder: made when the first model is kept.
        say: told why an entry was not used.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda note: None) -> None:
        self.folder, self.say = folder, say

    def get(
        self, recipe: Recipe | TransformerRecipe, data: Dataset, seed: int, *, progress: Progress = False
    ) -> nn.Module:
        """The model of this recipe, data and seed, in eval mode: read, or trained and kept.

        Raises:
            OSError: the folder cannot be written to.
            ImportError: safetensors is not installed; the message names the extra.
        """
        key = _key(recipe, data, seed)
        path = self.folder / f"{recipe.kind}-{recipe.width}-seed{seed}-{_hash(key)[:16]}.safetensors"
        kept = self._read(path, key) if path.exists() else None
        if kept is not None:
            model = recipe.build(data).eval()
            model.load_state_dict(kept)
            return model
        with one_thread():
            model = train(
                lambda: recipe.build(data),
                data,
                seed=seed,
                epochs=recipe.epochs(data),
                learning_rate=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                batch_size=recipe.batch_size,
                loss_fn=recipe.loss_fn,
                sam_rho=recipe.sam_rho if isinstance(recipe, Recipe) else 0.0,
                progress=progress,
            )
        state = model.state_dict()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, state, metadata={"key": key, "content": _content(state)}, overwrite=True)
        return model

    def _read(self, path: Path, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry; None, after a note, if it is not what its name says."""
        library = require("safetensors", "cli")
        try:
            with library.safe_open(path, "pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (library.SafetensorError, OSError) as error:
            self.say(f"{path.name} in the cache is damaged, and trained again: {error}")
            return None
        if metadata.get("key") != key:
            self.say(f"{path.name} in the cache is of another training, and trained again")
            return None
        if metadata.get("content") != _content(tensors):
            self.say(f"{path.name} in the cache has changed since it was written, and is trained again")
            return None
        return tensors


def _key(recipe: Recipe | TransformerRecipe, data: Dataset, seed: int) -> str:
    """Everything that decides the trained weights, as JSON."""
    parts = {
        "format": FORMAT,
        "recipe": recipe.described(),
        "epochs": recipe.epochs(data),
        "data": data.fingerprint,
        "seed": seed,
        "torch": torch.__version__,
        # Sums are taken in another order on another number of threads.
        "threads": 1,
    }
    return json.dumps(parts, sort_keys=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _content(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
