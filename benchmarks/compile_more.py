"""More kernels for `compile`: rows of interpolation, and halves of gain matrices."""

from __future__ import annotations

from collections.abc import Iterator

from .compile import Variant

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
                # Of long rows a few registers are spilled, and they are the fastest all the same, as measured.
                width < 4096,
            )


def halves(target: str) -> Iterator[Variant]:
    """Splitting float32 into halves, and scaling sums of them."""
    from lmc_fast.ops.gain_matrix import triton_split as split

    pointers = dict.fromkeys(("out", "total", "source", "largest", "largest_a", "largest_b"), "*fp32")
    down, across, warps = split.SPLIT_TILE
    yield Variant(
        "lmc_fast.ops.gain_matrix.triton_split:split_kernel",
        f"fp32, {down} x {across}",
        target,
        {name: pointers[name] for name in ("source", "largest")} | {"out": "*fp16"},
        {"BLOCK_R": down, "BLOCK_C": across},
        ("columns", "row", "out_row", "padded_columns", "hi_1", "hi_2", "lo"),
        warps,
        1,
    )
    down, across, warps = split.SCALE_TILE
    for add in (False, True):
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_split:scale_kernel",
            f"fp32, {down} x {across}{', added' if add else ''}",
            target,
            {name: pointers[name] for name in ("out", "total", "largest_a", "largest_b")},
            {"ADD": add, "BLOCK_R": down, "BLOCK_C": across},
            ("units", "out_row"),
            warps,
            1,
        )
