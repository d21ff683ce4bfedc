"""The checkpoints that go into a run: opened, checked against each other, read by memory map."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._safetensors import write_safetensors
from ..checkpoints.conversions import Conversion, conversions_of
from ..checkpoints.directories import CONFIG, ModelDirectory, described
from ..checkpoints.files import read_checkpoint
from ..checkpoints.headers import StoredTensor, read_header
from ..checkpoints.mapped import MappedTensors
from ..checkpoints.shards import indexed_shards, read_json, shards_of
from ..symmetry import PermutationSpec, derive_spec

__all__ = ["Input", "check_alike", "open_input", "spec_for"]

# What of two configurations says that they are of one architecture.
KINDS = ("_class_name", "architectures", "model_type")
SAFETENSORS = (".safetensors", ".sft")
INDEX = ".index.json"


@dataclass(eq=False)
class Input:
    """A checkpoint, opened.

    Attributes:
        path: as it was given.
        label: what messages call it.
        is_directory: whether it is a model directory.
        shapes: every tensor by the name that a spec has for it, on the meta device.
        conversions: how stored tensors become these.
        files: names of the weight files, each with the tensors that it holds, by their stored names.
        config: what config.json says; empty for a file.
        metadata: of a file's header.
        directory: where the library that made it was asked for its module.
        stored: where each tensor is, by its stored name; empty for a torch file, whose tensors are in `held`.
        tied: names of tensors that are not stored, each with that of the same one that is.
        untied: those of them that the output has as tensors of their own.
        config_changed: whether the output's configuration says something else than the file.
    """

    path: Path
    label: str
    is_directory: bool
    shapes: dict[str, Tensor]
    conversions: tuple[Conversion, ...]
    files: dict[str, list[str]]
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    directory: ModelDirectory | None = None
    stored: Mapping[str, StoredTensor] = field(default_factory=dict)
    held: Mapping[str, Tensor] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)
    config_changed: bool = False

    def attach(self, scratch: Path | None = None) -> None:
        """Map the weights; `tensors` and `let_go` can be used then.

        Args:
            scratch: a folder for tensors that have to be put together first (experts that lie in tensors of their own).
        """
        self._mapped = [MappedTensors(self.stored)]
        raw: Mapping[str, Tensor] = self.held if self.held else self._mapped[0]
        self.raw = raw
        self.tensors: dict[str, Tensor] = {}
        self.stored_tensors: Mapping[str, Tensor] = self.tensors
        if scratch is not None:
            self.put_together(scratch)
        for number, each in enumerate(self.conversions):
            if each.targets[0] in self.untied:
                continue
            if each.is_plain:
                self.tensors |= each.load(raw)
                continue
            assert scratch is not None
            path = self._scratch_of(scratch, number)
            put_together = MappedTensors(read_header(path).tensors)
            self._mapped.append(put_together)
            self.tensors |= {name: put_together[name] for name in each.targets}
        for name, other in {**self.tied, **self.untied}.items():
            self.tensors[name] = self.tensors[other]

    def put_together(self, scratch: Path, rank: int = 0, size: int = 1) -> None:
        """Write what has to be put together before it can be read, unless it is there already.

        Args:
            scratch: where to.
            rank, size: do every so-manieth alone: others do the rest.
        """
        mapped: MappedTensors | None = None
        for number, each in enumerate(self.conversions):
            path = self._scratch_of(scratch, number)
            if each.is_plain or number % size != rank or path.exists():
                continue
            mapped = MappedTensors(self.stored) if mapped is None else mapped
            write_safetensors(path, each.load(self.held or mapped), {})
            mapped.let_go()

    def _scratch_of(self, scratch: Path, number: int) -> Path:
        return scratch / f"{self.label}-{number}.safetensors"

    def read_instead(self, mapped: MappedTensors) -> None:
        """Take some of the `tensors` from another file from now on; `stored_tensors` are as they were."""
        self._mapped.append(mapped)
        self.stored_tensors = {**self.tensors}
        self.tensors |= mapped

    def let_go(self) -> None:
        """Take what was read out of this process's memory."""
        for mapped in self._mapped:
            mapped.let_go()

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for name, tensor in self.shapes.items() if name not in self.tied)

    @property
    def paths(self) -> list[Path]:
        """Every weight file."""
        if not self.is_directory and not self.path.name.lower().endswith(INDEX):
            return [self.path]
        folder = self.path if self.is_directory else self.path.parent
        return [folder / name for name in self.files]

    def fingerprint(self) -> list[list[Any]]:
        """What tells whether the files are still those of before."""
        return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in self.paths]

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Of the floating tensors."""
        return {tensor.dtype for tensor in self.shapes.values() if tensor.is_floating_point()}


def open_input(
    path: str | Path,
    label: str,
    *,
    like: Input | None = None,
    needs_module: bool = True,
    needs_weights: bool = True,
    key: str | None = None,
    trust_remote_code: bool = False,
) -> Input:
    """Open a model directory, a safetensors file, an index of several, or a torch file; no number is read.

    Args:
        path: of the checkpoint.
        label: what messages call it.
        like: the first input, whose module tells how this one's tensors become the spec's as well.
        needs_module: whether the module is asked for: not where a spec is given by the names that the files have.
        needs_weights: whether a directory without weights is refused.
        key: of a torch file, as `load_checkpoint` takes it.
        trust_remote_code: whether code that lies in the folder may be run.

    Raises:
        FileNotFoundError: nothing is there, or a folder has no config.json.
        ValueError: what is there is not whole, or holds no weights; the message names the file.
        ImportError: the library that made the directory is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path, label, like, needs_module, needs_weights, trust_remote_code)
    if not path.is_file():
        raise FileNotFoundError(f"model {str(path)!r} does not exist")
    if path.name.lower().endswith(INDEX):
        shards = indexed_shards(path.parent, path.name)
        files = {part: [n for n, at in shards.tensors.items() if at.path.name == part] for part in shards.files}
        return _of_file(path, label, shards.tensors, files, {})
    if path.suffix.lower() in SAFETENSORS:
        header = read_header(path)
        return _of_file(path, label, header.tensors, {path.name: list(header.tensors)}, header.metadata)
    found = read_checkpoint(path, key=key)
    plain = tuple(Conversion((name,), (name,)) for name in found.tensors)
    shapes = {name: tensor.to("meta") for name, tensor in found.tensors.items()}
    files = {path.name: list(found.tensors)}
    return Input(path, label, False, shapes, plain, files, held=found.tensors)


def _of_file(
    path: Path, label: str, stored: Mapping[str, StoredTensor], files: dict[str, list[str]], metadata: Mapping[str, str]
) -> Input:
    plain = tuple(Conversion((name,), (name,)) for name in stored)
    return Input(path, label, False, _on_meta(stored), plain, files, metadata=metadata, stored=stored)


def _open_directory(
    path: Path, label: str, like: Input | None, needs_module: bool, needs_weights: bool, trust_remote_code: bool
) -> Input:
    module_of: ModelDirectory | None = None
    if needs_module and (like is None or like.directory is None):
        module_of = described(path, trust_remote_code=trust_remote_code)
        config, shards = module_of.config, module_of.shards
    else:
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(f"model directory {str(path)!r} has no {CONFIG}")
        config, shards = read_json(path / CONFIG, "configuration"), shards_of(path)
        if config.get("auto_map") and not trust_remote_code:
            raise ValueError(
                f"configuration {str(path / CONFIG)!r} names code of its own (auto_map), and nothing in it was run: if "
                "you trust it, say so with trust_remote_code=True (--trust-remote-code)"
            )
        module_of = None if like is None else like.directory
    if like is not None:
        _check_kinds(like, path, config)
    if shards.why_none:
        if needs_weights:
            raise ValueError(shards.why_none)
        assert module_of is not None
        state = {n: tensor for n, tensor in module_of.module.state_dict().items() if isinstance(tensor, Tensor)}
        dtype = _dtype_of(config)
        shapes = {
            name: torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="meta")
            for name, tensor in state.items()
        }
        tied = _tied(module_of, None)
        plain = tuple(Conversion((name,), (name,)) for name in shapes if name not in tied)
        return Input(path, label, True, shapes, plain, {}, config, directory=module_of, tied=tied)
    if module_of is None:
        plain = tuple(Conversion((name,), (name,)) for name in shards.tensors)
        shapes, tied = _on_meta(shards.tensors), {}
    else:
        where = f"directory {str(path)!r}"
        plain = conversions_of(module_of.module, shards.tensors, where)
        shapes = {}
        for each in plain:
            shapes |= each.load({name: _meta(shards.tensors[name]) for name in each.sources})
        tied = _tied(module_of, shapes)
        shapes |= {name: shapes[other] for name, other in tied.items()}
    files = {part: [n for n, at in shards.tensors.items() if at.path.name == part] for part in shards.files}
    return Input(path, label, True, shapes, plain, files, config, {}, module_of, stored=shards.tensors, tied=tied)


def _tied(directory: ModelDirectory, held: Collection[str] | None) -> dict[str, str]:
    """Names of the module's tensors that are not stored, each with another name of the same one that is.

    Args:
        held: what is stored; None: the first name of each.
    """
    module = directory.module
    saved = module.state_dict().keys()
    names: dict[int, list[str]] = {}
    for named in (module.named_parameters, module.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if name in saved:
                names.setdefault(id(tensor), []).append(name)
    tied: dict[str, str] = {}
    for same in names.values():
        first = next((name for name in same if held is None or name in held), None)
        if first is not None:
            tied |= {name: first for name in same if name != first and (held is None or name not in held)}
    return tied


def _dtype_of(config: Mapping[str, Any]) -> torch.dtype:
    """The dtype that a configuration names; bfloat16 where it names none."""
    named = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    found = getattr(torch, str(named).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.bfloat16


def _check_kinds(like: Input, path: Path, config: Mapping[str, Any]) -> None:
    for key in KINDS:
        ours, theirs = like.config.get(key), config.get(key)
        if ours != theirs and not (key == "model_type" and None in (ours, theirs)):
            raise ValueError(
                f"models must be of one architecture, but {key} is {ours!r} in {str(like.path)!r} and {theirs!r} in "
                f"{str(path)!r}"
            )


def check_alike(inputs: Sequence[Input]) -> Iterator[str]:
    """Check inputs against the first: names, shapes, kinds of number; yields notes on what is let through.

    Raises:
        ValueError: they differ; the message names the tensor.
    """
    first = inputs[0]
    for other in inputs[1:]:
        if first.is_directory != other.is_directory:
            raise ValueError(
                f"models must be all directories or all files, got {str(first.path)!r} and {str(other.path)!r}"
            )
        for name, tensor in first.shapes.items():
            if name not in other.shapes:
                raise ValueError(f"model {str(other.path)!r} lacks {name!r}, which {str(first.path)!r} has")
            theirs = other.shapes[name]
            if theirs.shape != tensor.shape:
                vocabularies = [of.config.get("vocab_size") for of in (first, other)]
                why = ""
                if vocabularies[0] != vocabularies[1]:
                    why = f" (their vocabularies differ: {vocabularies[0]} and {vocabularies[1]})"
                raise ValueError(
                    f"models must have the same shapes, but {name!r} is {tuple(tensor.shape)} in {str(first.path)!r} "
                    f"and {tuple(theirs.shape)} in {str(other.path)!r}{why}"
                )
            if theirs.is_floating_point() != tensor.is_floating_point():
                raise ValueError(
                    f"models must have the same kinds of number, but {name!r} is {tensor.dtype} in "
                    f"{str(first.path)!r} and {theirs.dtype} in {str(other.path)!r}"
                )
        extra = next((name for name in other.shapes if name not in first.shapes), None)
        if extra is not None:
            raise ValueError(f"model {str(other.path)!r} has {extra!r}, which {str(first.path)!r} lacks")
    kinds = {dtype for each in inputs for dtype in each.dtypes}
    if len(kinds) > 1:
        said = "; ".join(f"{str(each.path)!r} holds {_named(each.dtypes)}" for each in inputs)
        yield f"{said}: sums are taken in float32 or wider and written in the dtypes of {str(first.path)!r}"


def spec_for(first: Input, spec: PermutationSpec | str | Path | None, *, rotations: bool = False) -> PermutationSpec:
    """The spec of a run: the one that was given, or that of the first input's module.

    Args:
        rotations: whether one that is derived has rotations.

    Raises:
        ValueError: it does not fit the tensors; none was given, and the input is a file; or one was, with rotations.
    """
    if rotations and spec is not None:
        raise ValueError("rotations are looked for where a spec is derived, and one was given: it has them, or has not")
    if spec is None:
        if first.directory is None:
            raise ValueError(
                f"model {str(first.path)!r} does not tell its spec, being a file: give one (spec=, --spec)"
            )
        found = derive_spec(first.directory.module, first.directory.example_inputs, rotations=rotations)
        axes = {name: axes for name, axes in found.axes.items() if name in first.shapes}
        return PermutationSpec(found.groups, axes, folds=found.folds).with_origin(found.origin).bind(first.shapes)
    if isinstance(spec, PermutationSpec):
        return spec.bind(first.shapes)
    read = PermutationSpec.from_json(spec)
    try:
        return read.bind(first.shapes)
    except ValueError as error:
        raise ValueError(f"spec {str(spec)!r}: {error}") from None


def _named(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _on_meta(stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    return {name: _meta(entry) for name, entry in stored.items()}


def _meta(entry: StoredTensor) -> Tensor:
    return torch.empty(entry.shape, dtype=entry.dtype, device="meta")


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration as the libraries write it."""
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
