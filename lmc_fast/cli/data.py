"""Data as they are named on a command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .models import imported

__all__ = ["batches_of"]


def batches_of(data: str, size: int) -> Iterable[Any]:
    """Batches to run a model on.

    Args:
        data: "package.module:callable", which gives batches or is a sequence of them; a safetensors file of one tensor,
            or of tensors by the names of forward's arguments, one example a row; or what `load_dataset` takes, of which
            it is the training part.
        size: examples of a batch, where they are not given as batches.

    Raises:
        TypeError, ValueError, ImportError, OSError: there are no such data; in one sentence.
    """
    from ..experiments.datasets import load_dataset

    if ":" in data and not Path(data).exists():
        found = imported(data)
        return found() if callable(found) else found  # type: ignore[no-any-return]
    if data.endswith(".safetensors"):
        return _rows_of(data, size)
    return load_dataset(data).train_batches(size)


def _rows_of(path: str, size: int) -> list[Any]:
    import torch

    from ..checkpoints import load_checkpoint

    tensors = load_checkpoint(path)
    counts = {name: len(tensor) if tensor.ndim else 0 for name, tensor in tensors.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        told = ", ".join(f"{name!r} has {count}" for name, count in counts.items()) or "it has no tensor"
        raise ValueError(f"data {path!r} must hold tensors with one row for each example, but {told}")
    cut = {name: torch.split(tensor, size) for name, tensor in tensors.items()}
    rows = [dict(zip(cut, batch, strict=True)) for batch in zip(*cut.values(), strict=True)]
    return rows if len(tensors) > 1 else [next(iter(batch.values())) for batch in rows]
