"""Checkpoints on disk merged into one: matched group by group, summed block by block, written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .._backend import check_device
from .._checks import check_int, check_type
from .._modes import neutral
from ..matching import Matching
from ..matching.weight import check_freeze
from ..symmetry import PermutationSpec
from .card import card_of
from .inputs import Input
from .joining import joined
from .options import Listener, MergeResult, Options, check_kinds, names_of
from .plan import Plan, calibrated, plan_of
from .run import Run, begun, opened, scratch_bytes, task_of
from .staging import check_output
from .writing import Sum, layout_of

__all__ = ["merge_checkpoints", "plan_merge"]


@neutral
def merge_checkpoints(
    model_a: str | Path,
    model_b: str | Path,
    *others: str | Path,
    out: str | Path,
    spec: PermutationSpec | str | Path | None = None,
    rotations: bool = False,
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

    Weights are read by memory map, and no model is ever held whole: the process's own memory is set by the largest
    group's gain matrix and its operands, whatever the method and however many models there are.

    Where torchrun has started this process with others, or `init_process_group` has been called, all ranks make the
    call and work on it together; the bytes written are those of one process. All must see the same files.

    Args:
        model_a, model_b, others: model directories (config.json and safetensors, whole or in shards), or all single
            files: safetensors, the index of several, files of torch.save (which are read into memory). None is changed.
        out: the directory, or for files the safetensors file, to write. It comes to be by one rename when all is
            written: it is whole or not there.
        spec: what may be permuted, or the JSON file of one; None: derived from the first directory's configuration, or
            not needed, for "none".
        rotations: whether to look for what may turn as well where the spec is derived, and not for permutations alone.
        lam: for two models, the weight of the second: (1 - lam) theta_a + lam pi(theta_b); None: the mean.
        weights: of each model, summing to 1; None: equal ones.
        method: "wm": each model is laid over the first by weight matching, one after another. "merge_many" or "c2m3":
            all together, as `match_many` does from its anchored start. "none": units stay where they are, and the plain
            mean is written. With a spec of other groups than of permutations models are put into pure form first
            (`fold_norms`), tied embeddings come out untied, and "wm" and "merge_many" turn one tensor at a time; the
            elements and one gain of a group are in memory.
        search: of a model over the first: "auto" looks at leading parts first, as "spectral" does, where those of the
            whole model take no more memory than 256 MiB and stand out; "coordinate_descent" and "frank_wolfe" as
            `weight_matching` takes them. No random start is made, and the result does not depend on threads.
        freeze: names of groups that stay in place.
        max_sweeps: end each search after so many passes over the groups.
        dtype: "bfloat16", "float16", "float32" or "float64" for the output's floating tensors; None: the first model's.
        device: where gains are computed, as torch names it; None: the CPU. Tensors are read ahead, through pinned
            memory, and copied while a GPU multiplies; of several ranks each moves what it has, to a GPU of its own.
            What a search looks at all of ("spectral", "frank_wolfe", "auto" where it looks at leading parts, those over
            all models at once, and with rotations) is moved there whole first.
        align_only: write the second model with its units permuted, in its own form, and merge nothing.
        shard_size: bytes that a file of weights has at most (one tensor may have more); None: as the first model's.
        resume: go on with what an interrupted run for `out` left. The bytes written are those of an undisturbed run.
        force: replace what is at `out`, and throw away what an interrupted run left.
        key: of torch files, as `load_checkpoint` takes it.
        trust_remote_code: whether a directory's own code may be run to build its module, and is copied along.
        listener: called with each event of the run as a dict (phase, bytes read and written, groups settled, seconds
            gone and expected); of several ranks that of the first.

    Returns:
        A `MergeResult`. Beside the weights a directory gets the first model's configuration and tokenizer files, a
        model card, checksums, and under ``lmc_fast/`` the matchings.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: models that do not fit each other or the spec, weights that are not finite (the tensor is named), a
            file that is not whole, or an option out of range.
        FileNotFoundError, FileExistsError: an input that is not there; an output that is.
        OSError: a full disk, say, or a rank that has died (ConnectionError). What was done is kept for ``resume=True``.
        ImportError: transformers or diffusers is needed for the spec, and is not installed.
    """
    began = time.perf_counter()
    options = Options(lam, weights, method, search, names_of(freeze), max_sweeps, dtype, align_only, shard_size)
    paths = [model_a, model_b, *others]
    shares = options.shares(len(paths))
    check_type("out", out, (str, Path), "a path")
    device = check_device("device", device)
    out = Path(out)
    with joined(device) as team:
        check_output(out, [Path(path) for path in paths], is_file=not Path(model_a).is_dir(), force=force)
        inputs, bound, notes = opened(
            paths, spec, method=method, rotations=rotations, key=key, trust_remote_code=trust_remote_code
        )
        check_kinds(options, bound)
        check_freeze(options.freeze, bound)
        plan = plan_of(bound, inputs[0].shapes, models=len(inputs), dtype=options.target, left_out=inputs[0].tied)
        needed = plan.written + sum(scratch_bytes(each, bound) for each in inputs)
        task = task_of("merge", inputs, bound, options, device, weights=shares)
        with begun(out, task, team, resume=resume, force=force, needed=needed) as staging:
            run = Run(inputs, bound, options, team, staging, listener)
            matches: list[Matching] = []
            if method == "wm":
                matches = [run.matcher.matched(m) for m in range(1, len(inputs))]
            elif method != "none":
                matches = run.matcher.matched_together(method)
            moved = [None, *(match.choice for match in matches)] if matches else [None] * len(inputs)
            total = Sum(inputs, shares, moved, options.target, 1 if align_only else 0, is_finite=bool(matches))
            named = {each.label: match for each, match in zip(inputs[1:], matches, strict=False)}
            card = _card(inputs, shares, matches, options, bound)
            checksums = run.write(total, named, card, with_code=trust_remote_code)
    run.watch.end(out=str(out))
    return MergeResult(out, tuple(matches), tuple(notes), checksums, time.perf_counter() - began)


@neutral
def plan_merge(
    model_a: str | Path,
    model_b: str | Path,
    *others: str | Path,
    spec: PermutationSpec | str | Path | None = None,
    rotations: bool = False,
    options: Options | None = None,
    ranks: int = 1,
    key: str | None = None,
    trust_remote_code: bool = False,
    calibrate: bool = True,
) -> Plan:
    """What `merge_checkpoints` would do. Directories need no weights for it.

    Args:
        rotations: as of `merge_checkpoints`.
        ranks: processes to share it out over.
        calibrate: whether to measure this machine for a second first.

    Raises:
        as `merge_checkpoints`.
    """
    options = Options() if options is None else options
    paths = [model_a, model_b, *others]
    options.shares(len(paths))
    check_int("ranks", ranks, 1)
    inputs, bound, _ = opened(
        paths,
        spec,
        method=options.method,
        rotations=rotations,
        key=key,
        trust_remote_code=trust_remote_code,
        needs_weights=False,
    )
    check_kinds(options, bound)
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
        left_out=inputs[0].tied,
    )


def _card(
    inputs: Sequence[Input],
    shares: Sequence[float],
    matches: Sequence[Matching],
    options: Options,
    spec: PermutationSpec,
) -> str:
    names = [each.path.name for each in inputs]
    how = "permuted" if spec.only_permutes else "permuted and turned"
    if options.align_only:
        title, what = f"{names[1]} over {names[0]}", f"{names[1]} with its units {how} to lie over {names[0]}'s."
    else:
        title = " + ".join(names)
        what = f"The weighted mean of models whose units were {how} first, to lie over each other."
        if not matches:
            what = "The weighted mean of models, entry by entry."
    told = [None, *matches] if matches else [None] * len(inputs)
    return card_of(inputs, shares, told, title=title, what=what, options=options.lines(spec))
