"""What every run on disk has in common: inputs that fit each other, a place to work, an output that is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .._checks import check_type
from .._derived import derived_weights
from .._files import write_text
from .._version import __version__
from ..matching import Matching
from ..symmetry import PermutationSpec
from .folding import fold, folded_bytes, is_untying, untie
from .inputs import Input, check_alike, open_input, spec_for
from .matcher import Matcher
from .options import Listener, Options
from .shares import parts_of, shared_out
from .staging import Guest, Staging
from .team import Team
from .watch import Rates, Watch
from .writing import CHECKSUMS, Parts, Sum, dealt, layout_of, write_shards, write_sidecars, written_a_second

__all__ = ["Run", "begun", "opened", "scratch_bytes", "task_of", "write_checksums"]

# Where an output directory keeps what is this package's own.
MATCHES = "lmc_fast"
# Bytes of an output that a trial of the disk takes no time beside.
WORTH_A_TRIAL = 1 << 26


def opened(
    paths: Sequence[str | Path],
    spec: PermutationSpec | str | Path | None,
    *,
    method: str = "wm",
    key: str | None,
    trust_remote_code: bool,
    needs_weights: bool = True,
    rotations: bool = False,
) -> tuple[list[Input], PermutationSpec, list[str]]:
    """Inputs that fit each other, the spec bound to them, and notes.

    Under `method` "none" there is nothing in the spec, and no module is asked for one.
    """
    if method == "none" and spec is not None:
        raise ValueError("spec must be left out for method='none', which moves nothing")
    inputs: list[Input] = []
    # What is tied is for a module to tell.
    needs_module = method != "none" if spec is None else is_untying(spec)
    for number, path in enumerate(paths):
        check_type(f"model {letter(number)}", path, (str, Path), "a path")
        inputs.append(
            open_input(
                path,
                letter(number),
                like=inputs[0] if inputs else None,
                needs_module=needs_module,
                needs_weights=needs_weights,
                key=key,
                trust_remote_code=trust_remote_code,
            )
        )
    notes = list(check_alike(inputs))
    bound = PermutationSpec() if method == "none" else spec_for(inputs[0], spec, rotations=rotations)
    for each in inputs:
        untie(each, bound.folds)
    return inputs, bound, notes


def letter(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else str(number)


def scratch_bytes(each: Input, spec: PermutationSpec) -> int:
    """Bytes of what has to be put together, or folded, before it can be read."""
    joined = sum(each.shapes[name].nbytes for one in each.conversions if not one.is_plain for name in one.targets)
    return joined + folded_bytes(each, spec.folds)


def task_of(
    what: str, inputs: Sequence[Input], spec: PermutationSpec, options: Options, device: object, **more: Any
) -> dict[str, Any]:
    """What must be the same for a run to go on with another's journal."""
    told = ("method", "search", "max_sweeps", "dtype", "align_only", "shard_size")
    return {
        "what": what,
        "version": __version__,
        "torch": torch.__version__,
        "inputs": [each.fingerprint() for each in inputs],
        "spec": hashlib.sha256(spec.to_json().encode()).hexdigest(),
        "device": str(device),
        "freeze": list(options.freeze),
        **{name: getattr(options, name) for name in told},
        **more,
    }


@contextmanager
def begun(
    out: Path, task: Mapping[str, Any], team: Team, *, resume: bool, force: bool, needed: int
) -> Iterator[Staging | Guest]:
    """A place to work for `out`, which comes to be at the end; what bad input leaves is removed, all else is kept.

    Raises:
        ValueError: ranks that were called with different arguments, or see different files.
    """
    plain = json.loads(json.dumps(task))
    for rank, other in enumerate(team.gathered(plain)):
        name = next((name for name in plain if other.get(name) != plain[name]), None)
        if name is not None:
            raise ValueError(
                f"all ranks must have the same inputs and options, but rank {rank} differs from rank {team.rank} in "
                f"{name!r}: {_cut(other.get(name))} and {_cut(plain[name])}"
            )
    if not team.is_first:
        yield Guest(out, team.told(dict))
        # It is there when the first has put it there.
        team.gathered(None)
        return
    staging = Staging(out, task, resume=resume, force=force, needed=needed)
    try:
        team.told(lambda: staging.journal.done)
        yield staging
        staging.publish(force=force)
        team.gathered(None)
    except BaseException as error:
        if isinstance(team.failed(error), ValueError):
            team.outlast()
            staging.remove()
        raise
    finally:
        staging.close()


def _cut(told: object) -> str:
    text = str(told)
    return text if len(text) <= 100 else text[:97] + "..."


class Run:
    """Inputs that are read, matched and summed.

    Args:
        inputs: opened; the first is the one that stays.
        spec: bound to them.
        options: how they are matched and written.
        team: who works on it, and where gains are computed.
        staging: where to work.
        listener: is told of each event, by the first rank alone.

    Raises:
        ValueError: a model that computes weights from other tensors.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        spec: PermutationSpec,
        options: Options,
        team: Team,
        staging: Staging | Guest,
        listener: Listener | None,
    ) -> None:
        self.inputs, self.options, self.team, self.staging = inputs, options, team, staging
        first = inputs[0]
        written = sum(tensor.nbytes for tensor in first.shapes.values())
        # Nothing is written before the end: how fast that goes is tried where it counts.
        is_tried = team.is_first and written >= WORTH_A_TRIAL
        tried = {"written": written_a_second(staging.folder)} if is_tried else {}
        self.watch = Watch(listener if team.is_first else None, Rates(**tried))
        self.shares = shared_out(parts_of(spec, first.shapes, first.tied), first.shapes, team.size)
        self.matcher = Matcher(
            inputs,
            spec,
            search=options.search,
            freeze=options.freeze,
            max_sweeps=options.max_sweeps,
            shares=self.shares,
            team=team,
            journal=staging.journal,
            watch=self.watch,
            scratch=staging.scratch,
        )
        if team.size > 1:
            for each in inputs:
                each.put_together(staging.scratch, team.rank, team.size)
            team.gathered(None)
        for each in inputs:
            each.attach(staging.scratch)
        # Each by one rank: the others find what it has written.
        mine = [number % team.size == team.rank for number in range(len(inputs))]
        for now in (True, False):
            for each, own in zip(inputs, mine, strict=True):
                if own == now:
                    fold(each, spec.folds, staging.scratch)
            if team.size > 1:
                team.gathered(None)
        derived = derived_weights(first.tensors, first.tensors)
        # Where nothing moves, the mean of what they are computed from is as good as any.
        if derived and spec.axes:
            raise ValueError(
                f"model {str(first.path)!r} computes {derived[0].name!r} from other tensors (weight normalisation, "
                "say), which are not merged by file: merge the modules (lmc_fast.merge)"
            )
        self.watch.expect(written=written)

    def write(
        self, total: Sum, matches: Mapping[str, Matching], card: str, *, with_code: bool, beside: Input | None = None
    ) -> dict[str, str]:
        """Write the output aside; returns the checksums of a directory's files.

        Args:
            total: what is written.
            matches: by the label of the input that each is for.
            card: text of the model card.
            with_code: whether Python files go along.
            beside: whose files go along in place of those of the input whose form the output has.
        """
        first = total.inputs[total.model]
        metadata = {"format": "pt", "lmc_fast.version": __version__}
        parts = layout_of(first, total, self.options.shard_size)
        out = self.staging.out
        if not first.is_directory:
            # One file, however many the first model has.
            one = {"out": [name for names in parts.values() for name in names]}
            self._write_shards(self.staging.folder, one, total, {**first.metadata, **metadata})
            return {}
        if self.team.is_first:
            out.mkdir(exist_ok=True)
        self.team.gathered(None)
        sums = self._write_shards(out, parts, total, metadata)

        def write_more() -> None:
            if matches:
                (out / MATCHES).mkdir(exist_ok=True)
            for label, match in matches.items():
                # Without times: the same run gives the same bytes.
                timeless = replace(match, seconds=0.0, history=tuple(replace(s, seconds=0.0) for s in match.history))
                timeless.save(out / MATCHES / f"matching-{label}.safetensors", overwrite=True)

        def write_rest() -> dict[str, str]:
            source = first if beside is None else beside
            every = sums | write_sidecars(
                out, source, first, parts, total, card, with_code=with_code, write_more=write_more
            )
            write_checksums(out, every)
            return every

        found: dict[str, str] = self.team.told(write_rest)
        return found

    def _write_shards(self, folder: Path, parts: Parts, total: Sum, metadata: Mapping[str, str]) -> dict[str, str]:
        owners = dealt(parts, total, self.shares, self.team.size)
        journal, watch = self.staging.journal, self.watch
        return write_shards(folder, parts, total, metadata, owners=owners, team=self.team, journal=journal, watch=watch)


def write_checksums(out: Path, sums: Mapping[str, str]) -> None:
    """Write checksums as `sha256sum -c` reads them."""
    write_text(out / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
