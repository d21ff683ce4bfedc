"""Tensors of safetensors files as views of the mapped files: read where they lie, by the page, and let go again."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from .headers import StoredTensor

__all__ = ["MappedTensors"]


class MappedTensors(Mapping[str, Tensor]):
    """Stored tensors by name, on the CPU, none of them copied.

    A tensor takes no memory of the process's own: its pages are the system's, which takes them back when it wants. They
    must not be written to, which ends the process.

    Args:
        stored: by name, as `read_header` gives them.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = dict(stored)
        self._maps: dict[Path, mmap.mmap] = {}
        for path in dict.fromkeys(entry.path for entry in self.stored.values()):
            with path.open("rb") as file:
                # An empty file cannot be mapped; a header has eight bytes at least.
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tensors = {name: self._view(entry) for name, entry in self.stored.items()}

    def _view(self, entry: StoredTensor) -> Tensor:
        if entry.size == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        with warnings.catch_warnings():
            # That the memory is not to be written to; nobody does.
            warnings.simplefilter("ignore", UserWarning)
            flat = torch.frombuffer(self._maps[entry.path], dtype=torch.uint8, count=entry.size, offset=entry.start)
        if flat.data_ptr() % entry.dtype.itemsize:
            flat = flat.clone()
        return flat.view(entry.dtype).reshape(entry.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.stored.values())

    def let_go(self) -> None:
        """Take the pages that were read out of this process; they come again where they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                # Not every file system takes advice.
                with suppress(OSError):
                    mapped.madvise(mmap.MADV_DONTNEED)
