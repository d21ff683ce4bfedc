"""Sizes of the tiles that products are made of."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULTS", "GROUPED_OTHERS", "LARGE", "MIDDLE", "OTHERS", "Config"]


class Config(NamedTuple):
    """Sizes of a product's tiles, warps, stages of its pipeline; the steps after which a sum is flushed, and how.

    nested: 1: in a loop of its own for each flush, 0: in one loop.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    flush: int
    nested: int = 0


# By kind of number and maker, for large, middle and small products; none of them spills registers.
DEFAULTS: dict[tuple[str, str], tuple[Config, Config, Config]] = {
    ("half", "cuda"): (Config(128, 128, 64, 8, 4, 8, 1), Config(128, 64, 64, 4, 4, 4), Config(64, 64, 64, 4, 4, 4)),
    ("float32", "cuda"): (Config(128, 64, 32, 8, 3, 2), Config(64, 64, 32, 4, 3, 2), Config(64, 32, 32, 4, 3, 2)),
    ("half", "hip"): (Config(128, 128, 64, 8, 2, 4), Config(128, 64, 64, 4, 2, 4), Config(64, 64, 64, 4, 2, 4)),
    ("float32", "hip"): (Config(128, 128, 32, 8, 2, 2), Config(64, 64, 32, 4, 2, 2), Config(64, 32, 32, 4, 2, 2)),
}
# What tuning tries beside them: as exact as they are, so that it chooses between times alone.
OTHERS: dict[tuple[str, str], tuple[Config, ...]] = {
    ("half", "cuda"): (Config(128, 128, 128, 8, 3, 2), Config(128, 128, 64, 8, 4, 4), Config(128, 128, 32, 8, 5, 8)),
    ("float32", "cuda"): (Config(128, 128, 16, 8, 4, 4), Config(64, 128, 32, 8, 3, 2), Config(64, 64, 16, 4, 4, 4)),
    ("half", "hip"): (Config(64, 128, 64, 4, 2, 4),),
    ("float32", "hip"): (Config(64, 128, 32, 4, 2, 2),),
}
# The same for many groups in one launch, beside the default for small products.
GROUPED_OTHERS: dict[tuple[str, str], tuple[Config, ...]] = {
    ("half", "cuda"): (Config(128, 64, 64, 4, 4, 4), Config(32, 64, 64, 4, 4, 4)),
    ("float32", "cuda"): (Config(64, 64, 32, 4, 3, 2), Config(32, 32, 32, 4, 3, 2)),
    ("half", "hip"): (Config(128, 64, 64, 4, 2, 4), Config(32, 64, 64, 4, 2, 4)),
    ("float32", "hip"): (Config(64, 64, 32, 4, 2, 2), Config(32, 32, 32, 4, 2, 2)),
}
# Units from which on a product is of middle size, and large.
MIDDLE, LARGE = 512, 2048
