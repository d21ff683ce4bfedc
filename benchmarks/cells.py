"""`cells`: every public function by every kind of model that people have, in every mode of the caller's.

A cell is right if the function gives what it gives outside the mode, to the bit, or refuses with a TypeError or a
ValueError that names the argument.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.checkpoints import load_checkpoint, save_checkpoint

from .cell_kinds import KINDS, MODES, Kind

__all__ = ["CALLS", "KINDS", "MODES", "Kind", "Outcome", "outcomes", "process_group", "register"]

# What a refusal has to name.
ARGUMENTS = (
    r"\b(model|models|model_a|model_b|merged|batches|spec|tensors|parameters|loss_fn|match|matches|weights|tuned)\b"
)


@dataclass(frozen=True)
class _Case:
    """What a call is given."""

    models: list[nn.Module]
    spec: lmc.PermutationSpec
    match: lmc.Matching
    batches: list[tuple[Tensor, Tensor]]

    @property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """The first two models."""
        return self.models[0], self.models[1]


def _saved(case: _Case) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_checkpoint(path, case.models[0].state_dict())
        return load_checkpoint(path)


def _saved_line(case: _Case) -> object:
    with tempfile.TemporaryDirectory() as folder:
        paths = lmc.save_interpolated(*case.pair, f"{folder}/{{index}}.safetensors", case.match, lambdas=2)
        return [load_checkpoint(path) for path in paths]


def _kept_match(case: _Case) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "match.safetensors"
        case.match.save(path)
        return lmc.Matching.load(path)


def _learned(**options: Any) -> Callable[[_Case], object]:
    return lambda case: lmc.straight_through_matching(*case.pair, case.batches, case.spec, epochs=1, **options)


def _sinkhorn(**options: Any) -> Callable[[_Case], object]:
    return lambda case: lmc.sinkhorn_matching(*case.pair, case.spec, steps=3, check_every=2, **options)


def _many(method: str, **options: Any) -> Callable[[_Case], object]:
    return lambda case: lmc.match_many(case.models, case.spec, method=method, max_sweeps=5, **options)


CALLS: dict[str, Callable[[_Case], object]] = {
    "weight_matching": lambda case: lmc.weight_matching(*case.pair, case.spec),
    "weight_matching, Frank-Wolfe": lambda case: lmc.weight_matching(*case.pair, case.spec, search="frank_wolfe"),
    "activation_matching": lambda case: lmc.activation_matching(*case.pair, case.batches, case.spec, unseen="keep"),
    "straight_through_matching": _learned(),
    # Refused by name: between layers of these kinds of model nothing turns.
    "learned_matching": lambda case: lmc.learned_matching(*case.pair, case.batches, case.spec, steps=1),
    "sinkhorn_matching, distance": _sinkhorn(),
    "sinkhorn_matching, midpoint": lambda case: _sinkhorn(batches=case.batches, loss="midpoint")(case),
    "sinkhorn_matching, random": lambda case: _sinkhorn(batches=case.batches, loss="random")(case),
    "match_many, merge_many": _many("merge_many"),
    "match_many, pairwise": _many("pairwise"),
    "match_many, c2m3": _many("c2m3"),
    "match_many, ste_mm": lambda case: _many("ste_mm", batches=case.batches, epochs=1)(case),
    "interpolate": lambda case: lmc.interpolate(*case.pair, [0.25, 0.5], case.match),
    "merge": lambda case: lmc.merge(case.models, weights=[0.5, 0.3, 0.2]),
    "rebase": lambda case: lmc.rebase(case.models[2], case.models[1], case.models[0], case.match),
    "Matching.apply": lambda case: case.match.apply(case.models[1]),
    "Permutations.apply": lambda case: lmc.Permutations.random(case.match.permutations.spec, 1).apply(case.models[1]),
    "repair": lambda case: lmc.repair(
        lmc.interpolate(*case.pair, 0.5, case.match), case.pair, case.batches, spec=case.spec
    ),
    "reestimate_batchnorm": lambda case: lmc.reestimate_batchnorm(case.models[0], case.batches),
    "evaluate": lambda case: lmc.evaluate(case.models[0], case.batches),
    "loss_barrier": lambda case: lmc.loss_barrier(
        *case.pair, case.batches, case.match, lambdas=3, batchnorm_batches=case.batches
    ),
    "pairwise_barriers": lambda case: lmc.pairwise_barriers(case.models, None, case.batches, lambdas=3),
    "loss_landscape": lambda case: lmc.loss_landscape(case.models, case.batches, points=2),
    "taylor_barrier": lambda case: lmc.taylor_barrier(*case.pair, case.batches, case.match),
    "singular_factors": lambda case: dict(lmc.singular_factors(case.models[0]).values),
    "spectral_alignment": lambda case: lmc.spectral_alignment(*case.pair, case.match, gammas=(0.0, 0.3)),
    "distance_decomposition": lambda case: lmc.distance_decomposition(*case.pair, case.match),
    "vector_cosines": lambda case: lmc.vector_cosines(*case.pair, case.match),
    "input_alignment": lambda case: lmc.input_alignment(case.models[0], case.batches),
    "derive_spec": lambda case: str(lmc.derive_spec(case.models[0], case.batches[0][0]).axes),
    # Of a spec without folds: a copy.
    "fold_norms": lambda case: lmc.fold_norms(case.models[0], case.spec),
    "verify_spec": lambda case: lmc.verify_spec(case.models[0], case.spec, case.batches[0][0]),
    "PermutationSpec.bind": lambda case: str(case.spec.bind(case.models[0])),
    "fisher_weights": lambda case: lmc.fisher_weights(case.models[0], case.batches),
    "weight_matching, entry weights": lambda case: lmc.weight_matching(
        *case.pair, case.spec, entry_weights=[lmc.fisher_weights(model, case.batches) for model in case.pair]
    ),
    "weight_matching, cosine": lambda case: lmc.weight_matching(*case.pair, case.spec, similarity="cosine"),
    "merge, entry weights": lambda case: lmc.merge(
        case.pair, entry_weights=[lmc.fisher_weights(model, case.batches) for model in case.pair]
    ),
    "zip_models": lambda case: lmc.zip_models(*case.pair, case.batches, case.spec).model,
    "calibrate_temperature": lambda case: lmc.calibrate_temperature(case.models[0], case.batches),
    "hessian_trace": lambda case: lmc.hessian_trace(case.models[0], case.batches, probes=2),
    "save_interpolated": _saved_line,
    "save_checkpoint": _saved,
    "Matching.save": _kept_match,
}


@dataclass(frozen=True)
class Outcome:
    """What came of a call in every mode.

    Attributes:
        call, kind: which function, which kind of model.
        usual: "ok", "refused: ..." (with the message), or another exception, outside all modes.
        wrong: by mode what is wrong there: another result, another outcome.
    """

    call: str
    kind: str
    usual: str
    wrong: dict[str, str]

    @property
    def is_right(self) -> bool:
        """Whether it works or is refused by name, and that in every mode."""
        return not self.wrong and (self.usual == "ok" or self.usual.startswith("refused"))

    @property
    def mark(self) -> str:
        """One letter for a table: the same in all modes (=), refused (r), otherwise wrong (X)."""
        return "X" if not self.is_right else "=" if self.usual == "ok" else "r"


def outcomes(call: str, kind: str, modes: Sequence[str] | None = None) -> Outcome:
    """Call the function on models of the kind, outside all modes and in each of them."""
    known = KINDS[kind]
    match = lmc.weight_matching(*known.models()[:2], known.spec())
    usual, value = _outcome(CALLS[call], known, match, contextlib.nullcontext)
    wrong = {}
    for name in MODES if modes is None else modes:
        found, other = _outcome(CALLS[call], known, match, MODES[name])
        if found != usual:
            wrong[name] = found
        elif other != value:
            wrong[name] = "another result"
    return Outcome(call, kind, usual, wrong)


def _outcome(
    call: Callable[[_Case], object],
    kind: Kind,
    match: lmc.Matching,
    mode: Callable[[], contextlib.AbstractContextManager[object]],
) -> tuple[str, str]:
    case = _Case(kind.models(), kind.spec(), match, kind.batches())
    before = _digest(case.models)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with mode():
                result = call(case)
        except (TypeError, ValueError) as error:
            named = re.search(ARGUMENTS, str(error)) is not None
            return (f"refused: {error}" if named else f"{type(error).__name__} without a name: {error}"), ""
        # What this looks for is exceptions of any kind.
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}", ""
    if _digest(case.models) != before:
        return "the caller's models were changed", ""
    return "ok", _digest(result)


def _digest(result: object) -> str:
    found = hashlib.sha256()
    for part in _parts(result):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """All numbers of a result, but for the seconds that it took."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield (
            value.detach().contiguous().view(torch.uint8).numpy().tobytes()
            if value.ndim
            else repr(value.item()).encode()
        )
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    elif isinstance(value, nn.Module):
        yield from _parts(dict(value.state_dict()))
    elif isinstance(value, lmc.Permutations):
        yield from _parts(value.choices)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name != "seconds":
                yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield str(name).encode()
            yield from _parts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _parts(entry)
    else:
        yield repr(value).encode()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """A process group of this process alone, for models that are wrapped for several."""
    if dist.is_initialized():
        yield
        return
    handle, path = tempfile.mkstemp()
    os.close(handle)
    try:
        dist.init_process_group("gloo", store=dist.FileStore(path, 1), rank=0, world_size=1)
        yield
        dist.destroy_process_group()
    finally:
        Path(path).unlink(missing_ok=True)


def register(commands: argparse._SubParsersAction) -> None:
    """Add `cells`."""
    parser = commands.add_parser("cells", help="every public function by every kind of model, in every mode")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", default=list(KINDS), help=f"of {[*KINDS]}")
    parser.add_argument("--only", default="", help="functions whose name holds this")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `cells`; 1 if one is wrong."""
    calls = [call for call in CALLS if arguments.only in call]
    width = max(map(len, calls))
    print(f"Each in {len(MODES)} modes: {', '.join(MODES)}.\n= the same to the bit, r refused by name, X wrong\n")
    for number, kind in enumerate(arguments.kinds):
        print(f"{number:>{width + 3}}  {kind}")
    print(f"{'':<{width}} ", *(f"{number:>2}" for number in range(len(arguments.kinds))))
    wrong, refused, right = [], [], 0
    with process_group():
        for call in calls:
            row = [outcomes(call, kind) for kind in arguments.kinds]
            print(f"{call:<{width}} ", *(f"{found.mark:>2}" for found in row), flush=True)
            wrong += [found for found in row if not found.is_right]
            refused += [found for found in row if found.is_right and found.usual != "ok"]
            right += sum(found.is_right for found in row)
    for found in refused:
        print(f"{found.call}, {found.kind}: {found.usual}")
    for found in wrong:
        print(f"WRONG {found.call}, {found.kind}: {found.usual}; {found.wrong}")
    print(f"{right * (len(MODES) + 1)} of {len(calls) * len(arguments.kinds) * (len(MODES) + 1)} cells are right")
    return int(bool(wrong))
