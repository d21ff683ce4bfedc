"""The merged checkpoint: tensors computed block by block as they are written, shard by shard, into a folder aside."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .._files import write_aside, write_text
from .._safetensors import write_stream
from .._tensors import FLOATS
from ..matching.weight import check_finite_weights
from ..ops.permuted_dot import permuted_dot
from ..ops.permuted_lerp import permuted_lerp
from ..symmetry import Permutations, Transforms
from ..symmetry.transforms import Choice
from .inputs import Input, config_text
from .journal import Record
from .memory import give_back
from .shares import Shares
from .team import Team
from .watch import Watch

__all__ = [
    "CARD",
    "CHECKSUMS",
    "Parts",
    "Sum",
    "checksum",
    "dealt",
    "layout_of",
    "sidecars",
    "write_shards",
    "write_sidecars",
    "written_a_second",
]

CARD, CHECKSUMS = "README.md", "SHA256SUMS"
# Bytes of a result that are computed at a time.
BLOCK = 1 << 25
# Weights in any form, what tells of them, and what belongs to a repository rather than to a model.
WEIGHTS = (
    *(
        ".safetensors",
        ".sft",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".onnx",
        ".gguf",
        ".ot",
        ".npz",
        ".npy",
    ),
    *(".pkl", ".pickle", ".tflite", ".mlmodel", ".part"),
)
LEFT = (CARD, CHECKSUMS)
MOST_BYTES = 64 << 20
# Bytes of a trial of the disk.
TRIAL = 1 << 23

Parts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sum:
    """What is written: sum_m weights[m] * pi_m(theta_m).

    Attributes:
        inputs: attached.
        weights: of each.
        choices: how each is moved; None where units stay.
        dtype: of the floating tensors; None: the first input's own.
        model: whose form the output has, and whose tensors are written where nothing is summed.
        is_finite: whether all weights are known to be; if not, they are looked at as they are summed.
    """

    inputs: Sequence[Input]
    weights: Sequence[float]
    choices: Sequence[Choice | None]
    dtype: torch.dtype | None = None
    model: int = 0
    is_finite: bool = True

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype of a tensor of the output."""
        own = self.inputs[self.model].shapes[name].dtype
        return self.dtype if self.dtype is not None and own in FLOATS else own

    def blocks(self, name: str) -> Iterator[Tensor]:
        """A tensor of the output by a spec's name, along its first dimension, in blocks."""
        own = self.inputs[self.model].tensors[name]
        weights = [(m, weight) for m, weight in enumerate(self.weights) if weight != 0]
        target = self.dtype_of(name)
        moved = any(c is not None and name in c.spec.axes for c in self.choices)
        if (own.dtype not in FLOATS and not moved) or own.numel() == 0:
            yield own
            return
        if own.dtype not in FLOATS:
            # Of integers there is no mean; with its units they move.
            choice = self.choices[self.model]
            yield own if choice is None else choice.apply_to(name, own)
            return
        parts: list[Tensor] = []
        gathers: list[tuple[Tensor | None, ...]] = []
        for m, _ in weights:
            choice, tensor = self.choices[m], self.inputs[m].tensors[name]
            spec = next((c.spec for c in self.choices if c is not None and name in c.spec.axes), None)
            view = tensor if spec is None else spec.view(name, tensor)
            if isinstance(choice, Permutations) and name in choice.spec.axes:
                gathers.append(choice.gathers(name))
            else:
                if isinstance(choice, Transforms) and any(not axis.is_fixed for axis in choice.spec.axes.get(name, ())):
                    # Turned in float32 or wider, and rounded with the sum.
                    wide = view.float() if view.dtype.itemsize < 4 else view
                    view = choice.apply_to(name, wide)
                gathers.append((None,) * view.ndim)
            parts.append(view.reshape(1) if view.ndim == 0 else view)
        gathers = [gather or (None,) for gather in gathers]
        shares = [weight for _, weight in weights]
        length = parts[0].shape[0]
        rows = max(1, BLOCK // max(1, own.nbytes // max(1, length)))
        for start in range(0, length, rows):
            count = min(rows, length - start)
            block = _summed(parts, gathers, shares, start, count, target)
            # One that is not finite makes the sum such, and so may a sum that overflows.
            if not self.is_finite and not math.isfinite(permuted_dot(block, block, (None,) * block.ndim)):
                for m, _ in weights:
                    each = self.inputs[m]
                    check_finite_weights(f"model {str(each.path)!r}", each.tensors, [name])
            yield block


def _summed(
    parts: Sequence[Tensor],
    gathers: Sequence[tuple[Tensor | None, ...]],
    shares: Sequence[float],
    start: int,
    count: int,
    dtype: torch.dtype,
) -> Tensor:
    """Rows of a weighted sum of gathered tensors."""
    rows: list[Tensor] = []
    others: list[tuple[Tensor | None, ...]] = []
    for part, gather in zip(parts, gathers, strict=True):
        first = gather[0]
        if first is None:
            rows.append(part.narrow(0, start, count))
        else:
            rows.append(part.index_select(0, first.narrow(0, start, count)))
        others.append((None, *gather[1:]))
    kinds = {row.dtype for row in rows}
    if kinds != {dtype}:
        # Summed in the widest, and rounded once.
        wide = torch.float64 if torch.float64 in {*kinds, dtype} else torch.float32
        if shares == [1.0] and len(rows) == 1:
            wide = rows[0].dtype
        rows = [row.to(wide) for row in rows]
    return permuted_lerp(rows, shares, others).to(dtype)


def layout_of(first: Input, total: Sum, shard_bytes: int | None) -> dict[str, list[str]]:
    """Names of the output's weight files, each with the stored tensors that it gets.

    Args:
        first: whose names and files are taken over.
        shard_bytes: how many bytes a file may have; None: the files of the first input.
    """
    if first.files and shard_bytes is None and first.stored:
        return {name: list(held) for name, held in first.files.items()}
    sizes = stored_sizes(first, total)
    stem = "diffusion_pytorch_model" if "_class_name" in first.config else "model"
    parts: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if parts[-1] and shard_bytes is not None and held + size > shard_bytes:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    if len(parts) == 1:
        return {f"{stem}.safetensors": parts[0]}
    return {f"{stem}-{k:05d}-of-{len(parts):05d}.safetensors": part for k, part in enumerate(parts, 1)}


def stored_sizes(first: Input, total: Sum) -> dict[str, int]:
    """Bytes of each stored tensor of the output."""
    return {name: torch.Size(shape).numel() * dtype.itemsize for name, (dtype, shape) in _entries(first, total).items()}


def _entries(first: Input, total: Sum) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    found = {}
    for each in first.conversions:
        for source in each.sources:
            if source in first.stored:
                own, shape = first.stored[source].dtype, first.stored[source].shape
            else:
                own, shape = first.shapes[each.targets[0]].dtype, tuple(first.shapes[each.targets[0]].shape)
            found[source] = (total.dtype if total.dtype is not None and own in FLOATS else own, tuple(shape))
    # What the module has no place for stays as it is.
    found |= {name: (at.dtype, at.shape) for name, at in first.stored.items() if name not in found}
    return found


def dealt(parts: Parts, total: Sum, shares: Shares, ranks: int) -> dict[str, int]:
    """The rank that writes each file: one that has much of it, and has not much to write already."""
    first = total.inputs[total.model]
    sizes = stored_sizes(first, total)
    place = {source: each.targets[0] for each in first.conversions for source in each.sources}
    held = [0] * ranks
    owner = {}
    size_of = {file: sum(sizes[name] for name in names) for file, names in parts.items()}
    for file in sorted(parts, key=lambda file: (-size_of[file], file)):
        # What it has to write, and what of this it does not have.
        cost = [size_of[file] + held[rank] for rank in range(ranks)]
        for name in parts[file]:
            cost[shares.rank_of(place.get(name, name))] -= sizes[name]
        owner[file] = cost.index(min(cost))
        held[owner[file]] += size_of[file]
    return owner


def write_shards(
    folder: Path,
    parts: Parts,
    total: Sum,
    metadata: Mapping[str, str],
    *,
    owners: Mapping[str, int],
    team: Team,
    journal: Record,
    watch: Watch,
) -> dict[str, str]:
    """Write the weight files that the journal does not have yet, each by its owner; returns the SHA-256 of each.

    Raises:
        OSError: the disk is full.
    """
    first = total.inputs[total.model]
    entries = _entries(first, total)
    place = {source: each for each in first.conversions for source in each.sources}
    size = {
        file: sum(torch.Size(entries[name][1]).numel() * entries[name][0].itemsize for name in names)
        for file, names in parts.items()
    }
    watch.begin("writing", files=len(parts))
    left: list[str] = team.told(
        lambda: [file for file in parts if journal.get(["written", file]) is None or not (folder / file).is_file()]
    )
    for file in parts.keys() - set(left):
        watch.did("written", size[file], file=file)

    def note(file: str) -> None:
        journal.add(["written", file], team.take(f"written/{file}"))
        if owners[file] != team.rank:
            watch.did("written", size[file], file=file)

    rest = list(left)
    for file in left:
        if owners[file] == team.rank:
            joined: dict[str, Tensor] = {}

            def content(name: str, joined: dict[str, Tensor] = joined) -> Iterator[Tensor]:
                each = place.get(name)
                if each is None:
                    yield first.raw[name]
                    return
                if each.is_plain:
                    give_back()
                    for block in total.blocks(each.targets[0]):
                        yield block
                        for one in total.inputs:
                            one.let_go()
                        watch.did("written", block.nbytes, tensor=name)
                    return
                if name not in joined:
                    joined.clear()
                    whole = {target: torch.cat(list(total.blocks(target))) for target in each.targets}
                    shaped = {n: tensor.reshape(first.shapes[n].shape) for n, tensor in whole.items()}
                    joined |= each.store(shaped)
                yield joined.pop(name)
                watch.did("written", torch.Size(entries[name][1]).numel() * entries[name][0].itemsize, tensor=name)

            some = {name: entries[name] for name in parts[file]}
            team.post(f"written/{file}", write_stream(folder / file, some, content, metadata))
        # As they are done, and in their order.
        while rest and team.has(f"written/{rest[0]}"):
            note(rest.pop(0))
    for file in rest:
        note(file)
    return {file: str(journal.get(["written", file])) for file in parts}


def written_a_second(folder: Path) -> float:
    """Bytes of weights that go to the disk in a second, with their checksum, by a trial in a folder.

    Raises:
        OSError: the disk is full.
    """
    path = folder / "trial.safetensors"
    # A file system may make nothing of bytes that are all alike.
    block = torch.frombuffer(bytearray(os.urandom(TRIAL)), dtype=torch.uint8)
    began = time.perf_counter()
    try:
        write_stream(path, {"trial": (block.dtype, (TRIAL,))}, lambda _: (block,), {})
        return TRIAL / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


def sidecars(first: Input, *, with_code: bool) -> Iterator[tuple[str, Path]]:
    """Files of a model directory that go along: configurations, tokenizers, licences; names relative to it.

    Args:
        with_code: whether Python files do.
    """
    for path in sorted(first.path.rglob("*")):
        name = path.relative_to(first.path)
        if any(part.startswith(".") or part == "__pycache__" for part in name.parts) or not path.is_file():
            continue
        if path.suffix.lower() in WEIGHTS or name.name.endswith(".index.json") or str(name) in LEFT:
            continue
        if path.suffix == ".py" and not with_code:
            continue
        if path.stat().st_size <= MOST_BYTES:
            yield str(name), path


def write_sidecars(
    folder: Path,
    source: Input,
    first: Input,
    parts: Parts,
    total: Sum,
    card: str,
    *,
    with_code: bool,
    write_more: Callable[[], None],
) -> dict[str, str]:
    """Write all but the weights of a model directory; returns the SHA-256 of each file.

    Args:
        source: whose files go along, but for the configuration, which is that of `first`.
        first: whose form the output has.
        parts: names of the weight files, each with the tensors that it has.
        total: what was written there.
        card: text of README.md.
        with_code: as `sidecars` takes it.
        write_more: writes what else belongs there.
    """
    names: list[str] = []
    for name, path in sidecars(source, with_code=with_code):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_aside(folder / name, partial(shutil.copyfile, path))
        names.append(name)
    config = dict(first.config)
    if total.dtype is not None:
        key = "dtype" if "dtype" in config else "torch_dtype"
        config[key] = str(total.dtype).removeprefix("torch.")
    if total.dtype is not None or source is not first or first.config_changed:
        write_text(folder / "config.json", config_text(config))
    whole = next(iter(parts)).removesuffix(".safetensors")
    stem = re.sub(r"-\d+-of-\d+$", "", whole)
    # One file by the name of a shard is looked for in an index as well.
    if len(parts) > 1 or stem != whole:
        sizes = stored_sizes(first, total)
        places = {name: file for file, held in parts.items() for name in held}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        write_text(folder / f"{stem}.safetensors.index.json", json.dumps(index, indent=2) + "\n")
        names.append(f"{stem}.safetensors.index.json")
    write_text(folder / CARD, card)
    names.append(CARD)
    write_more()
    every = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name: checksum(folder / name) for name in sorted(every - set(parts) - {CHECKSUMS})}


def checksum(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
