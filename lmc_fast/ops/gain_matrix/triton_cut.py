"""How a product is cut into programs: tiles of the result, and parts of the entries where tiles are few."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from .configs import Config
from .triton_candidates import KEPT, Kept

__all__ = ["Cut"]

MOST_SPLITS = 16
# Rows of tiles in a band, see `triton_product.banded`.
GROUP = 8


@dataclass(frozen=True)
class Cut:
    """The programs of one product.

    Attributes:
        grid: tiles, splits.
        steps: of the entries, in a split.
        splits: whether there are several.
        parts: where tiles go: the result, or one matrix for each split, [splits, units, units].
        kept: what tiles leave of their best columns; None: nothing.
    """

    grid: tuple[int, int]
    steps: int
    splits: bool
    parts: Tensor
    kept: Kept | None

    @classmethod
    def of(cls, units: int, steps: int, config: Config, out: Tensor, duals: Tensor | None) -> Cut:
        """As many splits of the entries as it takes to keep all processors busy, each of four steps at least."""
        across = triton.cdiv(units, config.n)
        tiles = triton.cdiv(units, config.m) * across
        splits = max(1, min(_processors(out.device) // tiles, steps // 4, MOST_SPLITS))
        steps_in_split = max(1, triton.cdiv(steps, splits))
        splits = max(1, triton.cdiv(steps, steps_in_split))
        kept = None if duals is None or splits > 1 else Kept.empty(units, across, duals)
        # Parts of their own, added in order.
        parts = out if splits == 1 else torch.empty(splits, units, units, dtype=torch.float32, device=out.device)
        return cls((tiles, splits), steps_in_split, splits > 1, parts, kept)

    def kept_pointers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `keep_best` reads and writes; anything where nothing is kept."""
        kept = self.kept
        return (self.parts,) * 4 if kept is None else (kept.duals, kept.gains, kept.columns, kept.rests)

    def constants(self, config: Config) -> dict[str, int]:
        """What all kernels of products take."""
        return {
            "FLUSH": config.flush,
            "BLOCK_M": config.m,
            "BLOCK_N": config.n,
            "BLOCK_K": config.k,
            "GROUP": GROUP,
            "KEPT": 0 if self.kept is None else KEPT,
            "num_warps": config.warps,
            "num_stages": config.stages,
        }

    def summed(self, out: Tensor, add: bool) -> Kept | None:
        """The parts in `out`, added to what it holds if `add`; returns `kept`."""
        if self.splits:
            total = self.parts.sum(0)
            out.copy_(out + total if add else total)
        return self.kept


def _processors(device: torch.device) -> int:
    """How many tiles run at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
