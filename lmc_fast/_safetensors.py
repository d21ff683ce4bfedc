"""Safetensors files, written tensor by tensor.

The library's own writer takes tensors that share nothing and a copy of all of them, makes files of its own beside the
one that it is given, says of a full disk what no OSError is, and cannot be interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ._files import write_aside

__all__ = ["check_storable", "write_safetensors", "write_stream"]

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Bytes handed to the system at once: between two of them an interrupt is heard.
CHUNK = 1 << 24


def check_storable(argument: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise, naming the entry, unless a safetensors file can hold all tensors.

    Raises:
        TypeError: an entry that is no tensor, or a name that is no string.
        ValueError: a dtype or a layout that the format lacks, or a name that it keeps for itself.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            what = f"a {type(tensor).__name__}" if isinstance(name, str) else f"under a {type(name).__name__}"
            raise TypeError(f"{argument}[{name!r}] must be a tensor under its name, got one {what}")
        if name == "__metadata__":
            raise ValueError(f"{argument} must not hold the name '__metadata__', which a safetensors file keeps")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind: object = "a nested one" if tensor.is_nested else tensor.layout
        elif tensor.device.type == "meta":
            kind = "one on the meta device, without numbers"
        elif tensor.dtype not in DTYPES:
            kind = tensor.dtype
        else:
            continue
        raise ValueError(f"{argument}[{name!r}] must be a tensor that a safetensors file can hold, got {kind}")


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = True
) -> None:
    """Write tensors and text as a safetensors file, aside and then renamed.

    Args:
        path: where to.
        tensors: by name; each is copied to the CPU and made contiguous as it is written.
        metadata: text for the header.
        overwrite: whether a file that is there may be replaced.

    Raises:
        OSError: it cannot be written to.
    """
    entries = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_stream(path, entries, lambda name: (tensors[name],), metadata, overwrite=overwrite)


def write_stream(
    path: Path,
    entries: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    content: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str],
    *,
    overwrite: bool = True,
) -> str:
    """Write tensors that come to be as they are written, as a safetensors file, aside and then renamed.

    Args:
        path: where to.
        entries: dtype and shape of each tensor by name.
        content: asked for one tensor after another: its numbers along its rows, in parts of any shapes.
        metadata: text for the header.
        overwrite: whether a file that is there may be replaced.

    Returns:
        The file's SHA-256, in hexadecimal.

    Raises:
        OSError: it cannot be written to.
        ValueError: parts that do not make up their tensor.
    """
    # As the library does it: the widest numbers first, so that all lie at multiples of their size.
    names = sorted(entries, key=lambda name: (-entries[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in names:
        dtype, shape = entries[name]
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    found = hashlib.sha256()

    def write(part: Path) -> None:
        """Write header and tensors to `part`, and count their bytes into the digest."""
        with part.open("wb") as file:

            def put(data: bytes | memoryview) -> None:
                file.write(data)
                found.update(data)

            put(len(text).to_bytes(8, "little") + text)
            for name in names:
                dtype, shape = entries[name]
                left = math.prod(shape) * dtype.itemsize
                for tensor in content(name):
                    if tensor.dtype != dtype:
                        raise ValueError(f"the parts of {name!r} must be {dtype}, got {tensor.dtype}")
                    data = _bytes_of(tensor).numpy().data
                    for begin in range(0, len(data), CHUNK):
                        put(data[begin : begin + CHUNK])
                    left -= len(data)
                if left:
                    raise ValueError(f"the parts of {name!r} must make up its shape, {left} bytes are missing")

    write_aside(path, write, overwrite=overwrite)
    return found.hexdigest()


def _bytes_of(tensor: Tensor) -> Tensor:
    """The numbers of a tensor along its rows, as uint8 [bytes]."""
    # A lazy conjugate or minus sign is carried out: it is no part of the bytes.
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8)
