"""Images and labels from the files that MNIST, Fashion-MNIST and CIFAR-10 come in, or from an .npz."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images", "read_images"]

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]

IDX = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
CIFAR = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
# A label, then 1,024 red, green and blue pixels each, row by row.
CIFAR_RECORD = 1 + 3 * 32 * 32
# What a damaged pickle makes an unpickler raise.
DAMAGE = (EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, struct.error, pickle.UnpicklingError)


@dataclass(frozen=True, eq=False)
class Images:
    """Images as they are in the files.

    Attributes:
        images: uint8 [examples, channels, height, width].
        labels: int64 [examples].
    """

    images: Bytes
    labels: Labels


def read_images(path: Path) -> tuple[Images, Images | None]:
    """The training and the test part; None where the files have one part only.

    Args:
        path: a folder, or an ``.npz`` of `images` (uint8 [examples, height, width], or with channels last or first)
            and `labels`, and maybe `test_images` and `test_labels`. In the folder (or in its `raw`): the four idx
            files of MNIST or Fashion-MNIST, as they are or with .gz; or (here or in the folder that the archive
            makes) the six batches of CIFAR-10, binary or pickled. Pickles may hold arrays and nothing else: nothing
            in them is run.

    Raises:
        FileNotFoundError: no such path, or a folder without such files; the message tells what was looked for.
        ValueError: files that are damaged or hold something else; the message names the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"data {str(path)!r} does not exist")
    if path.is_file():
        if path.suffix != ".npz":
            raise ValueError(f"data {str(path)!r} must be a folder or an .npz file")
        return _read_npz(path)
    found = {
        name: parts
        for name, parts in {
            "idx": _find_idx(path),
            "CIFAR-10": _find_cifar(path, "cifar-10-batches-bin", ".bin")
            or _find_cifar(path, "cifar-10-batches-py", ""),
        }.items()
        if parts
    }
    if not found:
        raise FileNotFoundError(
            f"data folder {str(path)!r} holds no data set. Looked for: train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (also with .idx3-ubyte, "
            ".idx1-ubyte and .gz, also in raw/); data_batch_1 to data_batch_5 and test_batch (also with .bin, also "
            "in cifar-10-batches-py/ and cifar-10-batches-bin/)"
        )
    if len(found) > 1:
        raise ValueError(f"data folder {str(path)!r} holds two data sets, idx files and CIFAR-10: give each its own")
    (kind, parts), *_ = found.items()
    read = _read_idx if kind == "idx" else _read_cifar
    return read(parts["train"]), read(parts["test"])


Parts = dict[str, list[Path]]


def _find_idx(folder: Path) -> Parts | None:
    """The four files, or None where one of them is missing."""
    for place in (folder, folder / "raw"):
        found: Parts = {}
        for part, (images, labels) in IDX.items():
            paths = [_first(place, images, "idx3-ubyte"), _first(place, labels, "idx1-ubyte")]
            found[part] = [path for path in paths if path is not None]
        if all(len(paths) == 2 for paths in found.values()):
            return found
    return None


def _first(folder: Path, stem: str, ending: str) -> Path | None:
    candidates = [folder / f"{stem}{dot}{ending}{packed}" for packed in ("", ".gz") for dot in ("-", ".")]
    return next((path for path in candidates if path.is_file()), None)


def _find_cifar(folder: Path, inside: str, suffix: str) -> Parts | None:
    for place in (folder, folder / inside):
        found = {part: [place / f"{name}{suffix}" for name in names] for part, names in CIFAR.items()}
        if all(path.is_file() for paths in found.values() for path in paths):
            return found
    return None


def _damaged(path: Path, why: object) -> NoReturn:
    raise ValueError(f"data file {str(path)!r} {why}") from None


def _read_idx(paths: list[Path]) -> Images:
    images, labels = _idx_array(paths[0], 3), _idx_array(paths[1], 1)
    if len(images) != len(labels):
        _damaged(paths[1], f"has {len(labels)} labels for {len(images)} images")
    return Images(images[:, None], labels.astype(np.int64))


def _idx_array(path: Path, dims: int) -> Bytes:
    """An idx file: two zero bytes, 8 (uint8), how many dimensions, their sizes as big-endian int32, the entries."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        _damaged(path, f"is no complete gzip file: {error}")
    if content[:4] != bytes((0, 0, 8, dims)) or len(content) < 4 + 4 * dims:
        _damaged(path, f"is no idx file of uint8 with {dims} dimension{'s' if dims > 1 else ''}")
    shape = struct.unpack(f">{dims}i", content[4 : 4 + 4 * dims])
    entries = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if min(shape) < 0 or entries.size != np.prod(shape, dtype=np.int64):
        _damaged(path, f"must hold {' x '.join(map(str, shape))} entries, got {entries.size}")
    return entries.reshape(shape)


def _read_cifar(paths: list[Path]) -> Images:
    batches = [_cifar_binary(path) if path.suffix == ".bin" else _cifar_pickle(path) for path in paths]
    rows = np.concatenate([data for data, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Images(rows.reshape(-1, 3, 32, 32), labels)


def _cifar_binary(path: Path) -> tuple[Bytes, Labels]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size == 0 or content.size % CIFAR_RECORD:
        _damaged(path, f"must hold records of {CIFAR_RECORD} bytes, got {content.size} bytes")
    records = content.reshape(-1, CIFAR_RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _cifar_pickle(path: Path) -> tuple[Bytes, Labels]:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
    except DAMAGE as error:
        _damaged(path, f"is no pickle of arrays alone, and nothing in it was run: {error}")
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= set(batch):
        _damaged(path, "must hold a dict with b'data' and b'labels'")
    data, labels = batch[b"data"], np.asarray(batch[b"labels"])
    fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (len(labels), CIFAR_RECORD - 1)
    if not fits or labels.ndim != 1 or labels.dtype.kind not in "iu":
        _damaged(path, f"must hold uint8 rows of {CIFAR_RECORD - 1} entries, and a label for each")
    return data, labels.astype(np.int64)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1") if encoding == "latin1" else text.encode()


# The function that arrays are pickled with, wherever this numpy keeps it.
_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
PICKLED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    # How Python 3 writes bytes for Python 2.
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return PICKLED[module, name]


def _read_npz(path: Path) -> tuple[Images, Images | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        _damaged(path, f"is no complete .npz of plain arrays: {error}")
    if not {"images", "labels"} <= set(arrays):
        _damaged(path, f"must hold arrays `images` and `labels`, got {sorted(arrays)}")
    if ("test_images" in arrays) != ("test_labels" in arrays):
        _damaged(path, "must hold both of `test_images` and `test_labels`, or neither")
    train = _npz_part(path, arrays["images"], arrays["labels"])
    test = _npz_part(path, arrays["test_images"], arrays["test_labels"]) if "test_images" in arrays else None
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        _damaged(path, f"has images of {train.images.shape[1:]} and test images of {test.images.shape[1:]}")
    return train, test


def _npz_part(path: Path, images: NDArray[Any], labels: NDArray[Any]) -> Images:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        _damaged(path, f"must hold uint8 images of 3 or 4 dimensions, got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        _damaged(path, f"must hold an integer label for each image, got {labels.dtype} {labels.shape}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] in (1, 3):
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    elif images.shape[1] not in (1, 3):
        _damaged(path, f"must hold images of 1 or 3 channels, first or last, got {images.shape}")
    return Images(images, labels.astype(np.int64))
