"""How checkpoints are merged, and what a merge gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._checks import check_finite, check_floats, check_int, check_type
from .._results import Result
from ..matching import Matching
from ..symmetry import PermutationSpec
from .search import SEARCHES

__all__ = ["DTYPES", "METHODS", "Listener", "MergeResult", "Options", "check_kinds", "names_of"]

METHODS = ("wm", "merge_many", "c2m3", "none")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class MergeResult(Result):
    """What a merge wrote.

    Attributes:
        out: where.
        matches: for each model but the first what brought it onto the first; none where nothing was aligned.
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
        if self.method == "none" and (self.align_only or self.freeze):
            raise ValueError("method='none' moves nothing: it goes with neither align_only nor freeze")
        if self.method == "c2m3" and self.freeze:
            raise ValueError("freeze does not go with method='c2m3', which moves all groups at once")
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

    def lines(self, spec: PermutationSpec) -> list[str]:
        """What a model card says of them."""
        if self.method == "none":
            return ["units as they are: nothing was aligned"]
        return [
            f"method {self.method}, search {self.search}, at most {self.max_sweeps} sweeps",
            f"{len(spec.groups)} groups of units; in place: {', '.join(self.freeze) or 'none'}",
        ]

    @property
    def target(self) -> torch.dtype | None:
        """The dtype of the output; None: the first model's own."""
        return None if self.dtype is None else DTYPES[self.dtype]


def check_kinds(options: Options, spec: PermutationSpec) -> None:
    """Raise ValueError where options are for permutations alone, and the spec has groups of other kinds."""
    if options.method == "c2m3":
        spec.check_only_permutes("method='c2m3'")
    if options.search == "frank_wolfe":
        spec.check_only_permutes("search='frank_wolfe'")
    if options.method == "merge_many" and options.freeze:
        spec.check_only_permutes("freeze beside method='merge_many'")


def names_of(freeze: Iterable[str]) -> tuple[str, ...]:
    """Names of groups, from whatever gives them in turn."""
    check_type("freeze", freeze, Iterable, "names of groups")
    if isinstance(freeze, str):
        raise TypeError(f"freeze must be names of groups, got the string {freeze!r}")
    return tuple(freeze)
