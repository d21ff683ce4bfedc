"""Data sets from files in their true formats, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmc_fast.experiments.datasets import digits, load_dataset

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 10
TEST_LABELS = np.arange(20) % 10
GREY = RNG.integers(0, 256, (40, 5, 4), dtype=np.uint8)
TEST_GREY = RNG.integers(0, 256, (20, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, dot: str = "-", packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array, ending in (
        ("train-images", GREY, "idx3"),
        ("train-labels", LABELS, "idx1"),
        ("t10k-images", TEST_GREY, "idx3"),
        ("t10k-labels", TEST_LABELS, "idx1"),
    ):
        content = idx(array)
        path = folder / f"{stem}{dot}{ending}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)


def cifar_parts() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Six batches of 10 examples; the last is the test batch."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    rows = COLOUR.reshape(6, 10, -1)
    return {name: (rows[i], [(i + k) % 10 for k in range(10)]) for i, name in enumerate(names)}


def write_cifar_pickles(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (rows, labels) in cifar_parts().items():
        batch = {b"batch_label": b"x", b"data": rows, b"labels": labels, b"filenames": [b"a.png"] * 10}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_cifar_binary(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (rows, labels) in cifar_parts().items():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], rows], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def standardised(train: np.ndarray, part: np.ndarray) -> torch.Tensor:
    channels = np.moveaxis(train.astype(np.float64), 1, 0).reshape(train.shape[1], -1)
    mean, deviation = channels.mean(1), channels.std(1, ddof=1)
    return torch.from_numpy((part - mean[:, None, None]) / deviation[:, None, None]).float()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("inside", ["", "raw"], ids=["here", "raw"])
def test_idx_files(tmp_path: Path, packed: bool, dot: str, inside: str) -> None:
    write_idx(tmp_path / "fashion" / inside, dot, packed)
    data = load_dataset(tmp_path / "fashion")
    assert data.name == "fashion" and data.image_shape == (1, 5, 4) and data.classes == 10
    torch.testing.assert_close(data.train_inputs, standardised(GREY[:, None], GREY[:, None]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.test_inputs, standardised(GREY[:, None], TEST_GREY[:, None]), rtol=1e-5, atol=1e-5)
    assert data.train_targets.tolist() == LABELS.tolist() and data.test_targets.tolist() == TEST_LABELS.tolist()
    assert data.train_targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("write", "inside"),
    [
        (write_cifar_pickles, ""),
        (write_cifar_pickles, "cifar-10-batches-py"),
        (write_cifar_binary, ""),
        (write_cifar_binary, "cifar-10-batches-bin"),
    ],
    ids=["pickles", "pickles-inside", "binary", "binary-inside"],
)
def test_cifar(tmp_path: Path, write: Callable[[Path], None], inside: str) -> None:
    write(tmp_path / "cifar" / inside)
    data = load_dataset(tmp_path / "cifar")
    assert data.image_shape == (3, 32, 32) and len(data.test_inputs) == 10
    torch.testing.assert_close(data.train_inputs, standardised(COLOUR[:50], COLOUR[:50]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.test_inputs, standardised(COLOUR[:50], COLOUR[50:]), rtol=1e-5, atol=1e-5)
    assert data.train_targets.tolist() == [(i + k) % 10 for i in range(5) for k in range(10)]


@pytest.mark.parametrize(
    "images",
    [GREY, GREY[:, None], GREY[..., None], np.moveaxis(COLOUR[:40, :, :5, :4], 1, -1), COLOUR[:40, :, :5, :4]],
    ids=["3-dims", "channel-first", "channel-last", "rgb-last", "rgb-first"],
)
def test_an_npz_is_split_and_standardised(tmp_path: Path, images: np.ndarray) -> None:
    np.savez(tmp_path / "mine.npz", images=images, labels=LABELS.astype(np.uint8))
    data = load_dataset(str(tmp_path / "mine.npz"))
    assert (data.name, len(data.train_inputs), len(data.test_inputs)) == ("mine", 34, 6)
    assert data.image_shape[1:] == (5, 4)
    channel = images if images.ndim == 3 else images[:, 0] if images.shape[1] in (1, 3) else images[..., 0]
    expected = standardised(channel[:34, None], channel[:, None])
    both = torch.cat([data.train_inputs, data.test_inputs])[:, :1]
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-5)
    assert data.test_targets.tolist() == LABELS[34:].tolist() and data.test_targets.dtype == torch.int64


def test_an_npz_may_bring_its_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GREY, labels=LABELS, test_images=TEST_GREY, test_labels=TEST_LABELS)
    data = load_dataset(tmp_path / "x.npz")
    assert (len(data.train_inputs), len(data.test_inputs)) == (40, 20)


def test_a_channel_that_never_varies_is_no_division_by_zero(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.full((40, 3, 3), 7, np.uint8), labels=LABELS)
    assert torch.equal(load_dataset(tmp_path / "x.npz").train_inputs, torch.zeros(34, 1, 3, 3))


def test_the_fingerprint_knows_the_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=LABELS)
    other = GREY.copy()
    other[-1, 0, 0] ^= 1
    np.savez(tmp_path / "b.npz", images=other, labels=LABELS)
    a, again, b = (load_dataset(tmp_path / name).fingerprint for name in ("a.npz", "a.npz", "b.npz"))
    assert a == again != b
    assert digits().fingerprint == load_dataset("digits").fingerprint


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w')",)


def replace_pickle(batch: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_cifar_pickles(folder)
        (folder / "data_batch_3").write_bytes(pickle.dumps(batch, protocol=2))

    return spoil


def replace_idx(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_idx(folder, packed=name.endswith(".gz"))
        (folder / name).write_bytes(content)

    return spoil


def both(folder: Path) -> None:
    write_cifar_binary(folder)
    write_idx(folder)


def short_binary(folder: Path) -> None:
    write_cifar_binary(folder)
    (folder / "test_batch.bin").write_bytes(b"\0" * 3072)


FOLDERS = {
    "pickle-with-code": (replace_pickle({b"data": Code()}), r"'.*data_batch_3' is no pickle .*wants to call .*exec"),
    "pickle-of-list": (replace_pickle([1]), "must hold a dict with b'data' and b'labels'"),
    "pickle-of-floats": (
        replace_pickle({b"data": np.zeros((1, 3072)), b"labels": [0]}),
        "must hold uint8 rows of 3072 entries",
    ),
    "pickle-few-labels": (
        replace_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}),
        "and a label for each",
    ),
    "binary-short": (short_binary, "records of 3073 bytes, got 3072"),
    "idx-magic": (
        replace_idx("train-images-idx3-ubyte", idx(LABELS)),
        "'.*train-images-idx3-ubyte' is no idx file of uint8 with 3",
    ),
    "idx-short": (replace_idx("t10k-images-idx3-ubyte", idx(GREY)[:-1]), "must hold 40 x 5 x 4 entries, got 799"),
    "idx-no-sizes": (replace_idx("t10k-labels-idx1-ubyte", b"\0\0\x08\x01"), "is no idx file"),
    "idx-negative": (
        replace_idx("t10k-labels-idx1-ubyte", b"\0\0\x08\x01" + struct.pack(">i", -1)),
        "must hold -1 entries",
    ),
    "idx-labels": (replace_idx("train-labels-idx1-ubyte", idx(LABELS[:9])), "has 9 labels for 40 images"),
    "gz-no-gz": (replace_idx("train-images-idx3-ubyte.gz", idx(GREY)), "is no complete gzip file"),
    "gz-cut": (replace_idx("train-images-idx3-ubyte.gz", gzip.compress(idx(GREY))[:-20]), "is no complete gzip file"),
    "two": (both, "holds two data sets"),
}


@pytest.mark.parametrize(("spoil", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_damaged_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / "data")
    assert not Path("pwned").exists()


NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "no-labels": ({"images": GREY}, r"must hold arrays `images` and `labels`, got \['images'\]"),
    "floats": ({"images": GREY / 255, "labels": LABELS}, "must hold uint8 images of 3 or 4 dimensions, got float64"),
    "flat": ({"images": GREY.reshape(40, 20), "labels": LABELS}, r"got uint8 \(40, 20\)"),
    "channels": ({"images": GREY.reshape(40, 2, 5, 2), "labels": LABELS}, "images of 1 or 3 channels"),
    "few-labels": ({"images": GREY, "labels": LABELS[:3]}, "an integer label for each image"),
    "half-labels": ({"images": GREY, "labels": LABELS / 2}, "an integer label for each image, got float64"),
    "negative": ({"images": GREY, "labels": -LABELS}, "must have labels of 0 and above, got -9"),
    "half-a-test-part": ({"images": GREY, "labels": LABELS, "test_images": GREY}, "both of `test_images` and"),
    "other-test-shape": (
        {"images": GREY, "labels": LABELS, "test_images": GREY[:, 1:], "test_labels": LABELS},
        r"has images of \(1, 5, 4\) and test images of \(1, 4, 4\)",
    ),
    "too-few": ({"images": GREY[:6], "labels": LABELS[:6]}, "examples to train on and to test with"),
    "objects": ({"images": np.array([{}]), "labels": LABELS}, "is no complete .npz of plain arrays"),
}


@pytest.mark.parametrize(("arrays", "message"), NPZ.values(), ids=NPZ.keys())
def test_an_npz_of_other_things_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / "x.npz")


def test_a_cut_npz_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GREY, labels=LABELS)
    path = tmp_path / "x.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is no complete \.npz"):
        load_dataset(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist"):
        load_dataset(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"Looked for: train-images-idx3-ubyte.*data_batch_1"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"must be a folder or an \.npz file"):
        load_dataset(tmp_path / "notes.txt")
    with pytest.raises(TypeError, match="data must be 'digits' or a path, got 3"):
        load_dataset(3)  # type: ignore[arg-type]
