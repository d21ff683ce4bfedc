"""Fine-tunes and LoRA adapters on disk, carried over to another base."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._backend import check_device
from .._checks import check_finite, check_type
from .._files import write_aside, write_text
from .._modes import neutral
from .._safetensors import check_storable, write_safetensors
from .._version import __version__
from ..checkpoints.directories import ADAPTER
from ..checkpoints.headers import read_header
from ..checkpoints.mapped import MappedTensors
from ..checkpoints.shards import read_json
from ..matching import Matching
from ..matching.weight import check_finite_weights, check_freeze
from ..merging.adapters import carried_adapter, is_adapter
from ..symmetry import PermutationSpec
from .card import card_of
from .folding import untie
from .inputs import Input, check_alike, open_input
from .joining import joined
from .options import Listener, MergeResult, Options, check_kinds, names_of
from .plan import plan_of
from .run import Run, begun, opened, scratch_bytes, task_of, write_checksums
from .staging import check_output
from .writing import CARD, Sum, checksum, sidecars

__all__ = ["rebase_checkpoints"]

WEIGHTS = "adapter_model.safetensors"


@neutral
def rebase_checkpoints(
    tuned: str | Path,
    base: str | Path,
    new: str | Path,
    *,
    out: str | Path,
    spec: PermutationSpec | str | Path | None = None,
    rotations: bool = False,
    alpha: float = 1.0,
    search: str = "auto",
    freeze: Iterable[str] = (),
    max_sweeps: int = 100,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    shard_size: int | None = None,
    resume: bool = False,
    force: bool = False,
    key: str | None = None,
    trust_remote_code: bool = False,
    listener: Listener | None = None,
) -> MergeResult:
    """Write a fine-tune of one model as one of another: theta_new + alpha * pi(theta_tuned - theta_base).

    pi brings the base's units onto the new model's (see `rebase`). Weights are read and written as `merge_checkpoints`
    does, with memory set by the largest group.

    Args:
        tuned: a model directory or file like the other two; or a LoRA adapter of PEFT's (a directory with
            adapter_config.json, or its safetensors file), whose factors are moved and never multiplied out. With
            rotations it is of the base as it lies on disk, and what is written of the new model as it does.
        base: what it was made from.
        new: what it is to be a fine-tune of.
        out: as of `merge_checkpoints`. For an adapter an adapter is written. A directory gets the new model's
            configuration and the fine-tune's other files (its tokenizer).
        alpha: how much of the fine-tune.
        spec, rotations, search, freeze, max_sweeps, dtype, device, shard_size, resume, force, key, trust_remote_code,
            listener: as of `merge_checkpoints`; an adapter keeps its dtypes and is one file.

    Returns:
        A `MergeResult`.

    Raises:
        as `merge_checkpoints`, and ValueError for an adapter's entry that belongs to no parameter.
    """
    began = time.perf_counter()
    options = Options(None, None, "wm", search, names_of(freeze), max_sweeps, dtype, False, shard_size)
    options.shares(2)
    alpha = check_finite("alpha", alpha)
    for name, path in (("tuned", tuned), ("base", base), ("new", new), ("out", out)):
        check_type(name, path, (str, Path), "a path")
    device = check_device("device", device)
    tuned, out = Path(tuned), Path(out)
    with joined(device) as team:
        adapter = _Adapter.of(tuned)
        is_file = not (Path(new) if adapter is None else tuned).is_dir()
        check_output(out, [tuned, Path(base), Path(new)], is_file=is_file, force=force)
        inputs, bound, notes = opened(
            [new, base], spec, rotations=rotations, key=key, trust_remote_code=trust_remote_code
        )
        check_kinds(options, bound)
        check_freeze(options.freeze, bound)
        needed = sum(scratch_bytes(each, bound) for each in inputs)
        if adapter is None:
            third = open_input(
                tuned,
                "tuned",
                like=inputs[0],
                needs_module=inputs[0].directory is not None,
                key=key,
                trust_remote_code=trust_remote_code,
            )
            notes += list(check_alike([inputs[0], third]))
            untie(third, bound.folds)
            inputs.append(third)
            needed += plan_of(bound, inputs[0].shapes, dtype=options.target).written + scratch_bytes(third, bound)
            task = task_of("rebase", inputs, bound, options, device, alpha=alpha)
        else:
            needed += adapter.nbytes
            task = task_of("rebase", inputs, bound, options, device, alpha=alpha, adapter=adapter.fingerprint())
        with begun(out, task, team, resume=resume, force=force, needed=needed) as staging:
            run = Run(inputs, bound, options, team, staging, listener)
            match = run.matcher.matched(1)
            if adapter is None:
                _check_finite(inputs[2], run)
                checksums = _write_tuned(run, inputs, match, alpha, options, bound, trust_remote_code)
            else:
                write = partial(adapter.write, run, inputs, match, alpha, options.lines(bound), trust_remote_code)
                checksums = team.told(write)
    run.watch.end(out=str(out))
    return MergeResult(out, (match,), tuple(notes), checksums, time.perf_counter() - began)


def _check_finite(tuned: Input, run: Run) -> None:
    """Each rank looks at what it has."""
    for name, tensor in tuned.tensors.items():
        if not tensor.is_floating_point() or tensor.itemsize == 1 or run.shares.rank_of(name) != run.team.rank:
            continue
        check_finite_weights(f"model {str(tuned.path)!r}", tuned.tensors, [name])
        tuned.let_go()


def _write_tuned(
    run: Run,
    inputs: list[Input],
    match: Matching,
    alpha: float,
    options: Options,
    spec: PermutationSpec,
    with_code: bool,
) -> dict[str, str]:
    new, base, tuned = inputs
    total = Sum([new, tuned, base], [1.0, alpha, -alpha], [None, match.choice, match.choice], options.target)
    how = "permutation" if spec.only_permutes else "permutation and rotation"
    card = card_of(
        [new, tuned, base],
        total.weights,
        [None, None, match],
        title=f"{tuned.path.name} on {new.path.name}",
        what=f"{new.path.name} plus {alpha:g} times the difference of {tuned.path.name} and {base.path.name}, whose "
        f"units were brought onto those of {new.path.name} by {how}.",
        options=options.lines(spec),
    )
    return run.write(total, {"base": match}, card, with_code=with_code, beside=tuned if tuned.is_directory else None)


class _Adapter:
    """A LoRA adapter on disk."""

    def __init__(self, path: Path, weights: Path, config: Mapping[str, Any]) -> None:
        self.path, self.weights, self.config = path, weights, config
        header = read_header(weights)
        self.tensors: Mapping[str, Tensor] = MappedTensors(header.tensors)
        self.metadata = header.metadata
        check_storable(repr(str(weights)), self.tensors)
        check_finite_weights(f"adapter {str(weights)!r}", self.tensors, self.tensors)
        self.nbytes = weights.stat().st_size

    @classmethod
    def of(cls, path: Path) -> _Adapter | None:
        """The adapter at a path; None where there is a model."""
        if path.is_dir():
            if not (path / ADAPTER).is_file():
                return None
            if not (path / WEIGHTS).is_file():
                raise FileNotFoundError(f"adapter {str(path)!r} has no {WEIGHTS}; pickles are not read")
            config = read_json(path / ADAPTER, "configuration")
            if config.get("peft_type", "LORA") != "LORA":
                raise ValueError(f"adapter {str(path)!r} must be of type LORA, got {config['peft_type']!r}")
            return cls(path, path / WEIGHTS, config)
        if path.suffix.lower() == ".safetensors" and path.is_file() and is_adapter(read_header(path).tensors):
            return cls(path, path, {})
        return None

    def fingerprint(self) -> list[Any]:
        """What tells whether the file is still that of before."""
        found = self.weights.stat()
        return [str(self.weights.resolve()), found.st_size, found.st_mtime_ns]

    def write(
        self, run: Run, inputs: list[Input], match: Matching, alpha: float, lines: list[str], with_code: bool
    ) -> dict[str, str]:
        """Write the adapter, carried over, aside; returns the checksums of a directory's files."""
        new, base = inputs
        carried = carried_adapter(
            self.tensors,
            match.choice,
            base.tensors,
            new.tensors,
            alpha=alpha,
            fan_in_fan_out=bool(self.config.get("fan_in_fan_out")),
            stored=(base.stored_tensors, new.stored_tensors),
        )
        out = run.staging.out
        metadata = {**self.metadata, "format": "pt", "lmc_fast.version": __version__}
        run.watch.begin("writing")
        if not self.path.is_dir():
            write_safetensors(out, carried, metadata)
            return {}
        out.mkdir(exist_ok=True)
        write_safetensors(out / WEIGHTS, carried, metadata)
        directory = Input(self.path, "adapter", True, {}, (), {})
        for name, path in sidecars(directory, with_code=with_code):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_aside(out / name, partial(shutil.copyfile, path))
        config = {**self.config, "base_model_name_or_path": str(new.path)}
        if any(name.endswith(".lora_B.bias") for name in carried):
            config["lora_bias"] = True
        write_text(out / ADAPTER, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        card = card_of(
            [new, base],
            [1.0, alpha],
            [None, match],
            title=f"{self.path.name} on {new.path.name}",
            what=f"The adapter {self.path.name} of {base.path.name}, its factors moved so that they fit "
            f"{new.path.name}.",
            options=lines,
        )
        write_text(out / CARD, card)
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
        sums = {str(path.relative_to(out)): checksum(path) for path in files}
        write_checksums(out, sums)
        return sums
