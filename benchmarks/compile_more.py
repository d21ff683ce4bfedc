"""More kernels for `compile`: rows of interpolation, and half numbers of gain matrices."""

from __future__ import annotations

from collections.abc import Iterator

from .compile import LIMITS, Variant

__all__ = ["halves", "rows"]


def rows(target: str) -> Iterator[Variant]:
    """Interpolation of whole rows, of several widths."""
    from lmc_fast.ops.permuted_lerp import triton_rows

    if not triton_rows.can():
        return
    for width in (64, 512, 4096):
        at_once = max(1, triton_rows.TILE // width)
        for dtype in ("fp16", "bf16", "fp32", "fp64"):
            sums = "fp64" if dtype == "fp64" else "fp32"
            share = triton_rows.SHARE // (2 if dtype == "fp64" else 1)
            yield Variant(
                "lmc_fast.ops.permuted_lerp.triton_rows:rows_kernel",
                f"{dtype}, {at_once} x {width}",
                target,
                {**dict.fromkeys(("table", "part_of_tile", "first_tile"), "*i64"), "weights": f"*{sums}"},
                {
                    "SOURCES": 2,
                    "OUTPUTS": 1,
                    "DTYPE": f"tl.{dtype}",
                    "SUM": f"tl.{sums}",
                    "ALIGNED": True,
                    "ROWS": at_once,
                    "WIDTH": width,
                    "TURNS": triton_rows.TURNS,
                },
                (),
                min(16, max(4, triton_rows.TILE // share)),
                1,
                # On Hopper these spill two registers.
                (dtype, width) != ("fp32", 512),
            )


def halves(target: str) -> Iterator[Variant]:
    """float32 split into halves, products of halves, and rows of half types that are gathered."""
    from lmc_fast.ops.gain_matrix import triton_gather as gather
    from lmc_fast.ops.gain_matrix import triton_halves as split
    from lmc_fast.ops.gain_matrix.triton_candidates import KEPT
    from lmc_fast.ops.permuted_lerp.triton_rows import can

    made = {"source": "*fp32", "gather": "*i64", "out": "*fp16", "exponents": "*i32"}
    width = 4096
    for gathered in (False, True) if can() else (False,):
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_halves:split_rows_kernel",
            f"fp32, rows of {width}{', gathered' if gathered else ''}",
            target,
            made,
            {"GATHERED": gathered, "WIDTH": width, "TURNS": gather.TURNS},
            ("k", "reach", "row", "width"),
            gather.warps_of(width),
            1,
        )
    units, entries, warps = split.SPLIT_TILE
    for one in ("unit_stride", "entry_stride"):
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_halves:split_tiles_kernel",
            f"fp32, {units} x {entries}, {'units' if one == 'unit_stride' else 'entries'} in order",
            target,
            made,
            {one: 1, "GATHERED": True, "BLOCK_U": units, "BLOCK_E": entries},
            ("k", "width", *({"unit_stride", "entry_stride"} - {one})),
            warps,
            1,
        )
    left = {"duals": "*fp32", "best_gains": "*fp32", "best_columns": "*i32", "rests": "*fp32"}
    sides = {"a": "*fp16", "b": "*fp16", "exponents_a": "*i32", "exponents_b": "*i32", "out": "*fp32", **left}
    roomy = LIMITS[target] >= split.SHARED
    for config in (split.FEW_HALVES, *(split.HALVES if roomy else ())):
        for kept in (0, KEPT):
            yield Variant(
                "lmc_fast.ops.gain_matrix.triton_halves:halves_kernel",
                f"fp32, {config.m} x {config.n} x {config.k}, flush {config.flush}{', candidates' if kept else ''}",
                target,
                sides,
                {
                    "ADD": bool(kept),
                    "FLUSH": config.flush,
                    "BLOCK_M": config.m,
                    "BLOCK_N": config.n,
                    "BLOCK_K": config.k,
                    "GROUP": 8,
                    "KEPT": kept,
                },
                ("units", "width", "out_row"),
                config.warps,
                config.stages,
                # Beside the candidates the large ones spill two registers.
                config == split.FEW_HALVES or (config == split.HALVES[0] and not kept),
            )
    if can():
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_gather:gather_rows_kernel",
            f"bf16, rows of {width}",
            target,
            {"source": "*bf16", "gather": "*i64", "out": "*bf16"},
            {"WIDTH": width, "TURNS": gather.TURNS},
            ("reach", "k", "row"),
            gather.warps_of(width),
            1,
        )
