"""Checkpoints on disk merged into one: matched group by group, summed block by block, written whole or not at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._backend import check_device
from .._checks import check_finite, check_floats, check_int, check_type
from .._derived import derived_weights
from .._files import write_text
from .._modes import neutral
from .._version import __version__
from ..matching import Matching, match_many
from ..matching.weight import check_freeze
from ..symmetry import Permutations, PermutationSpec
from .card import card_of
from .inputs import Input, check_alike, open_input, spec_for
from .journal import choices_from, choices_to
from .matcher import Matcher
from .plan import Plan, calibrated, plan_of
from .search import SEARCHES
from .staging import Staging, check_output
from .watch import Rates, Watch
from .writing import CHECKSUMS, Sum, layout_of, write_shards, write_sidecars

__all__ = ["METHODS", "MergeResult", "Options", "merge_checkpoints", "plan_merge"]

METHODS = ("wm", "merge_many", "c2m3")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
MATCHES = "lmc_fast"

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class MergeResult:
    """What a merge wrote.

    Attributes:
        out: where.
        matches: for each model but the first what brought it onto the first.
        notes: what was let through and is worth knowing.
        checksums: SHA-256 of each file, by its name; empty where one file was written.
        seconds: how long it took.
    """

    out: Path
    matches: tuple[Matching, ...] = field(repr=False)
    notes: tuple[str, ...]
    checksums: Mapping[str, str] = field(repr=False)
    seconds: float

    def __str__(self) -> str:
        return "\n".join([*(str(match) for match in self.matches), f"wrote {self.out} in {self.seconds:.1f} s"])


@dataclass(frozen=True)
class Options:
    """How models are merged; see `merge_checkpoints`."""

    lam: float | None = None
    weights: Sequence[float] | None = None
    method: str = "wm"
    search: str = "auto"
    freeze: tuple[str, ...] = ()
    max_sweeps: int = 100
    dtype: str | None = None
    align_only: bool = False
    shard_size: int | None = None

    def shares(self, count: int) -> list[float]:
        """The weight of each of `count` models, after checking all options.

        Raises:
            TypeError, ValueError: an option of the wrong kind, out of range, or that does not go with another.
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {self.method!r}")
        if self.search not in SEARCHES:
            raise ValueError(f"search must be one of {', '.join(map(repr, SEARCHES))}, got {self.search!r}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {self.dtype!r}")
        check_int("max_sweeps", self.max_sweeps, 1)
        if self.shard_size is not None:
            check_int("shard_size", self.shard_size, 1)
        if self.align_only:
            if count != 2 or self.lam is not None or self.weights is not None:
                raise ValueError("align_only takes two models, and neither lam nor weights")
            return [0.0, 1.0]
        if self.lam is not None:
            if count != 2 or self.weights is not None:
                raise ValueError("lam is for two models, and not beside weights: give weights for more")
            lam = check_finite("lam", self.lam)
            return [1.0 - lam, lam]
        if self.weights is None:
            return [1.0 / count] * count
        shares = check_floats("weights", self.weights)
        if len(shares) != count:
            raise ValueError(f"weights must have one entry for each of the {count} models, got {len(shares)}")
        if abs(sum(shares) - 1.0) > 1e-6:
            raise ValueError(f"weights must sum to 1, got {sum(shares)}")
        return shares

    @property
    def target(self) -> torch.dtype | None:
        """The dtype of the output; None: the first model's own."""
        return None if self.dtype is None else DTYPES[self.dtype]


@neutral
def merge_checkpoints(
    model_a: str | Path,
    model_b: str | Path,
    *others: str | Path,
    out: str | Path,
    spec: PermutationSpec | str | Path | None = None,
    lam: float | None = None,
    weights: Sequence[float] | None = None,
    method: str = "wm",
    search: str = "auto",
    freeze: Iterable[str] = (),
    max_sweeps: int = 100,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    align_only: bool = False,
    shard_size: int | None = None,
    resume: bool = False,
    force: bool = False,
    key: str | None = None,
    trust_remote_code: bool = False,
    listener: Listener | None = None,
) -> MergeResult:
    """Merge checkpoints on disk: the others' units are laid over the first's, and the weighted mean is written.

    Weights are read by memory map, and no model is ever held whole: with two models, or several under "wm", the
    process's own memory is set by the largest group's gain matrix and its operands.

    Args:
        model_a, model_b, others: model directories (config.json and safetensors, whole or in shards), or all single
            files: safetensors, the index of several, files of torch.save (which are read into memory). None is changed.
        out: the directory, or for files the safetensors file, to write. It comes to be by one rename when all is
            written: it is whole or not there.
        spec: what may be permuted, or the JSON file of one; None: derived from the first directory's configuration.
        lam: for two models, the weight of the second: (1 - lam) theta_a + lam pi(theta_b); None: the mean.
        weights: of each model, summing to 1; None: equal ones.
        method: "wm": each model is laid over the first by weight matching, one after another. "merge_many" or "c2m3":
            all together, as `match_many` does, with gains of all pairs in memory.
        search: of "wm": "auto" looks at leading parts first, as "spectral" does, where those of the whole model take
            no more memory than 256 MiB and stand out; "coordinate_descent" and "frank_wolfe" as `weight_matching`
            takes them. No random start is made, and the result does not depend on threads.
        freeze: names of groups that stay in place.
        max_sweeps: end each search after so many passes over the groups.
        dtype: "bfloat16", "float16", "float32" or "float64" for the output's floating tensors; None: the first model's.
        device: where gains are computed, as torch names it; None: the CPU. Models are moved there whole.
        align_only: write the second model with its units permuted, in its own form, and merge nothing.
        shard_size: bytes that a file of weights has at most (one tensor may have more); None: as the first model's.
        resume: go on with what an interrupted run for `out` left. The bytes written are those of an undisturbed run.
        force: replace what is at `out`, and throw away what an interrupted run left.
        key: of torch files, as `load_checkpoint` takes it.
        trust_remote_code: whether a directory's own code may be run to build its module, and is copied along.
        listener: called with each event of the run as a dict (phase, bytes read and written, groups settled, seconds
            gone and expected).

    Returns:
        A `MergeResult`. Beside the weights a directory gets the first model's configuration and tokenizer files, a
        model card, checksums, and under ``lmc_fast/`` the matchings.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models that do not fit each other or the spec, weights that are not finite (the tensor is named), a
            file that is not whole, or an option out of range.
        FileNotFoundError, FileExistsError: an input that is not there; an output that is.
        OSError: a full disk, say. What was done is kept for ``resume=True``.
        ImportError: transformers or diffusers is needed for the spec, and is not installed.
    """
    began = time.perf_counter()
    options = Options(lam, weights, method, search, _names(freeze), max_sweeps, dtype, align_only, shard_size)
    paths = [model_a, model_b, *others]
    shares = options.shares(len(paths))
    check_type("out", out, (str, Path), "a path")
    device = check_device("device", device)
    out = Path(out)
    check_output(out, [Path(path) for path in paths], is_file=not Path(model_a).is_dir(), force=force)
    inputs, bound, notes = _opened(paths, spec, key=key, trust_remote_code=trust_remote_code)
    check_freeze(options.freeze, bound)
    plan = plan_of(bound, inputs[0].shapes, models=len(inputs), dtype=options.target, freeze=options.freeze)
    staging = Staging(
        out,
        _task(inputs, bound, options, shares, device),
        resume=resume,
        force=force,
        needed=plan.written + sum(_scratch_bytes(each) for each in inputs),
    )
    try:
        run = _Run(inputs, bound, options, shares, device, staging, Watch(listener, Rates()))
        matches, checksums = run.run(began, with_code=trust_remote_code)
        staging.publish(force=force)
    except ValueError:
        # Bad input is told of, and leaves nothing.
        staging.remove()
        raise
    finally:
        staging.close()
    run.watch.end(out=str(out))
    return MergeResult(out, tuple(matches), tuple(notes), checksums, time.perf_counter() - began)


@neutral
def plan_merge(
    model_a: str | Path,
    model_b: str | Path,
    *others: str | Path,
    spec: PermutationSpec | str | Path | None = None,
    options: Options | None = None,
    ranks: int = 1,
    key: str | None = None,
    trust_remote_code: bool = False,
    calibrate: bool = True,
) -> Plan:
    """What `merge_checkpoints` would do. Directories need no weights for it.

    Args:
        ranks: processes to share it out over.
        calibrate: whether to measure this machine for a second first.

    Raises:
        as `merge_checkpoints`.
    """
    options = Options() if options is None else options
    paths = [model_a, model_b, *others]
    options.shares(len(paths))
    check_int("ranks", ranks, 1)
    inputs, bound, _ = _opened(paths, spec, key=key, trust_remote_code=trust_remote_code, needs_weights=False)
    check_freeze(options.freeze, bound)
    total = Sum(inputs, [], [], options.target, 1 if options.align_only else 0)
    return plan_of(
        bound,
        inputs[0].shapes,
        models=len(inputs),
        nbytes=[each.nbytes for each in inputs],
        freeze=options.freeze,
        dtype=options.target,
        shards=len(layout_of(inputs[0], total, options.shard_size)),
        rates=calibrated() if calibrate else None,
        ranks=ranks,
    )


def _names(freeze: Iterable[str]) -> tuple[str, ...]:
    check_type("freeze", freeze, Iterable, "names of groups")
    if isinstance(freeze, str):
        raise TypeError(f"freeze must be names of groups, got the string {freeze!r}")
    return tuple(freeze)


def _opened(
    paths: Sequence[str | Path],
    spec: PermutationSpec | str | Path | None,
    *,
    key: str | None,
    trust_remote_code: bool,
    needs_weights: bool = True,
) -> tuple[list[Input], PermutationSpec, list[str]]:
    """Inputs that fit each other, the spec bound to them, and notes."""
    inputs: list[Input] = []
    for number, path in enumerate(paths):
        check_type(f"model {_letter(number)}", path, (str, Path), "a path")
        inputs.append(
            open_input(
                path,
                _letter(number),
                like=inputs[0] if inputs else None,
                needs_module=spec is None,
                needs_weights=needs_weights,
                key=key,
                trust_remote_code=trust_remote_code,
            )
        )
    notes = list(check_alike(inputs))
    return inputs, spec_for(inputs[0], spec), notes


def _letter(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else str(number)


def _scratch_bytes(each: Input) -> int:
    return sum(each.shapes[name].nbytes for one in each.conversions if not one.is_plain for name in one.targets)


def _task(
    inputs: Sequence[Input], spec: PermutationSpec, options: Options, shares: Sequence[float], device: object
) -> dict[str, Any]:
    """What must be the same for a run to go on with another's journal."""
    return {
        "what": "merge",
        "version": __version__,
        "torch": torch.__version__,
        "inputs": [each.fingerprint() for each in inputs],
        "spec": hashlib.sha256(spec.to_json().encode()).hexdigest(),
        "weights": list(shares),
        "device": str(device),
        **{
            name: getattr(options, name)
            for name in ("method", "search", "max_sweeps", "dtype", "align_only", "shard_size")
        },
        "freeze": list(options.freeze),
    }


class _Run:
    """One merge, from opened inputs to a whole output aside."""

    def __init__(
        self,
        inputs: Sequence[Input],
        spec: PermutationSpec,
        options: Options,
        shares: Sequence[float],
        device: torch.device | None,
        staging: Staging,
        watch: Watch,
    ) -> None:
        self.inputs, self.spec, self.options, self.shares = inputs, spec, options, shares
        self.device, self.staging, self.journal, self.watch = device, staging, staging.journal, watch
        self.matcher = Matcher(
            inputs,
            spec,
            search=options.search,
            freeze=options.freeze,
            max_sweeps=options.max_sweeps,
            device=device,
            journal=staging.journal,
            watch=watch,
        )

    def run(self, began: float, *, with_code: bool) -> tuple[list[Matching], dict[str, str]]:
        """Match and write; returns the matchings, and the checksums of a folder's files."""
        for each in self.inputs:
            each.attach(self.staging.scratch)
        first = self.inputs[0]
        derived = derived_weights(first.tensors, first.tensors)
        if derived:
            raise ValueError(
                f"model {str(first.path)!r} computes {derived[0].name!r} from other tensors (weight normalisation, "
                "say), which are not merged by file: merge the modules (lmc_fast.merge)"
            )
        self.watch.expect(written=sum(tensor.nbytes for tensor in first.shapes.values()))
        if self.options.method == "wm":
            matches = [self.matcher.matched(m) for m in range(1, len(self.inputs))]
        else:
            matches = self._matched_together()
        total = Sum(
            self.inputs,
            self.shares,
            [None, *(match.permutations for match in matches)],
            self.options.target,
            1 if self.options.align_only else 0,
        )
        return matches, self._write(total, matches, with_code)

    def _matched_together(self) -> list[Matching]:
        """Lay all models over the first at once."""
        parts = [self.matcher.part(m) for m in range(1, len(self.inputs))]
        spec = parts[0][0].spec
        tensors: list[dict[str, Tensor]] = [parts[0][0].tensors_a, *(part.tensors_b for part, _ in parts)]
        done = self.journal.get(["match all"])
        if done is None:
            self.watch.begin("matching all models")
            many = match_many(
                tensors,
                spec,
                method=self.options.method,
                max_sweeps=self.options.max_sweeps,
                device=self.device,
            )
            done = self.journal.add(
                ["match all"],
                {
                    "choices": [choices_to(each.choices) for each in many.permutations],
                    "before": many.l2_before[0].tolist(),
                    "after": many.l2_after[0].tolist(),
                    "objective": many.objective,
                    "converged": many.converged,
                    "method": many.method,
                },
            )
        return [
            Matching(
                permutations=Permutations(self.spec, choices_from(done["choices"][m])),
                objective=done["objective"],
                l2_before=done["before"][m],
                l2_after=done["after"][m],
                converged=done["converged"],
                history=(),
                seconds=0.0,
                method=done["method"],
                verified=self.spec.verified,
            )
            for m in range(1, len(self.inputs))
        ]

    def _write(self, total: Sum, matches: Sequence[Matching], with_code: bool) -> dict[str, str]:
        first = total.inputs[total.model]
        metadata = {"format": "pt", "lmc_fast.version": __version__}
        parts = layout_of(first, total, self.options.shard_size)
        out = self.staging.out
        if not first.is_directory:
            # One file, however many the first model has.
            one = {"out": [name for names in parts.values() for name in names]}
            metadata = {**first.metadata, **metadata}
            write_shards(self.staging.folder, one, total, metadata, journal=self.journal, watch=self.watch)
            return {}
        out.mkdir(exist_ok=True)
        sums = write_shards(out, parts, total, metadata, journal=self.journal, watch=self.watch)

        def write_more() -> None:
            (out / MATCHES).mkdir(exist_ok=True)
            for each, match in zip(self.inputs[1:], matches, strict=True):
                # Without times: the same run gives the same bytes.
                timeless = replace(match, seconds=0.0, history=tuple(replace(s, seconds=0.0) for s in match.history))
                timeless.save(out / MATCHES / f"matching-{each.label}.safetensors", overwrite=True)

        sums |= write_sidecars(
            out, first, parts, total, self._card(matches), with_code=with_code, write_more=write_more
        )
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        write_text(out / CHECKSUMS, "".join(lines))
        return sums

    def _card(self, matches: Sequence[Matching]) -> str:
        names = [each.path.name for each in self.inputs]
        if self.options.align_only:
            title, what = f"{names[1]} over {names[0]}", f"{names[1]} with its units permuted to lie over {names[0]}'s."
        else:
            title = " + ".join(names)
            what = "The weighted mean of models whose units were laid over each other by permutation first."
        options = [
            f"method {self.options.method}, search {self.options.search}, at most {self.options.max_sweeps} sweeps",
            f"{len(self.spec.groups)} groups of units; in place: {', '.join(self.options.freeze) or 'none'}",
        ]
        return card_of(self.inputs, self.shares, [None, *matches], title=title, what=what, options=options)
