"""What every run on disk has in common: inputs that fit each other, a place to work, an output that is whole."""

from __future__ import annotations

import hashlib
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
from .inputs import Input, check_alike, open_input, spec_for
from .matcher import Matcher
from .options import Listener, Options
from .staging import Staging
from .watch import Rates, Watch
from .writing import CHECKSUMS, Sum, layout_of, write_shards, write_sidecars, written_a_second

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
) -> tuple[list[Input], PermutationSpec, list[str]]:
    """Inputs that fit each other, the spec bound to them, and notes.

    Under `method` "none" there is nothing in the spec, and no module is asked for one.
    """
    if method == "none" and spec is not None:
        raise ValueError("spec must be left out for method='none', which moves nothing")
    inputs: list[Input] = []
    for number, path in enumerate(paths):
        check_type(f"model {letter(number)}", path, (str, Path), "a path")
        inputs.append(
            open_input(
                path,
                letter(number),
                like=inputs[0] if inputs else None,
                needs_module=spec is None and method != "none",
                needs_weights=needs_weights,
                key=key,
                trust_remote_code=trust_remote_code,
            )
        )
    notes = list(check_alike(inputs))
    return inputs, PermutationSpec() if method == "none" else spec_for(inputs[0], spec), notes


def letter(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else str(number)


def scratch_bytes(each: Input) -> int:
    """Bytes of what has to be put together before it can be read."""
    return sum(each.shapes[name].nbytes for one in each.conversions if not one.is_plain for name in one.targets)


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
def begun(out: Path, task: Mapping[str, Any], *, resume: bool, force: bool, needed: int) -> Iterator[Staging]:
    """A place to work for `out`, which comes to be at the end; what bad input leaves is removed, all else is kept."""
    staging = Staging(out, task, resume=resume, force=force, needed=needed)
    try:
        yield staging
        staging.publish(force=force)
    except ValueError:
        staging.remove()
        raise
    finally:
        staging.close()


class Run:
    """Inputs that are read, matched and summed.

    Args:
        inputs: opened; the first is the one that stays.
        spec: bound to them.
        options: how they are matched and written.
        device: where gains are computed; None: the CPU.
        staging: where to work.
        listener: is told of each event.

    Raises:
        ValueError: a model that computes weights from other tensors.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        spec: PermutationSpec,
        options: Options,
        device: torch.device | None,
        staging: Staging,
        listener: Listener | None,
    ) -> None:
        self.inputs, self.options, self.staging = inputs, options, staging
        written = sum(tensor.nbytes for tensor in inputs[0].shapes.values())
        # Nothing is written before the end: how fast that goes is tried where it counts.
        tried = {"written": written_a_second(staging.folder)} if written >= WORTH_A_TRIAL else {}
        self.watch = Watch(listener, Rates(**tried))
        self.matcher = Matcher(
            inputs,
            spec,
            search=options.search,
            freeze=options.freeze,
            max_sweeps=options.max_sweeps,
            device=device,
            journal=staging.journal,
            watch=self.watch,
        )
        for each in inputs:
            each.attach(staging.scratch)
        first = inputs[0]
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
        out, journal = self.staging.out, self.staging.journal
        if not first.is_directory:
            # One file, however many the first model has.
            one = {"out": [name for names in parts.values() for name in names]}
            metadata = {**first.metadata, **metadata}
            write_shards(self.staging.folder, one, total, metadata, journal=journal, watch=self.watch)
            return {}
        out.mkdir(exist_ok=True)
        sums = write_shards(out, parts, total, metadata, journal=journal, watch=self.watch)

        def write_more() -> None:
            if matches:
                (out / MATCHES).mkdir(exist_ok=True)
            for label, match in matches.items():
                # Without times: the same run gives the same bytes.
                timeless = replace(match, seconds=0.0, history=tuple(replace(s, seconds=0.0) for s in match.history))
                timeless.save(out / MATCHES / f"matching-{label}.safetensors", overwrite=True)

        source = first if beside is None else beside
        sums |= write_sidecars(out, source, first, parts, total, card, with_code=with_code, write_more=write_more)
        write_checksums(out, sums)
        return sums


def write_checksums(out: Path, sums: Mapping[str, str]) -> None:
    """Write checksums as `sha256sum -c` reads them."""
    write_text(out / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
