"""`compile`: registers, shared memory and spills of every kernel, compiled for GPUs that need not be there."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .options import add_out
from .report import Report, machine, table

__all__ = ["LIMITS", "Compiled", "Variant", "compile_variant", "missing", "register", "variants"]

# Shared memory that a block may have, by target.
LIMITS = {"cuda 80": 163 << 10, "cuda 90": 227 << 10, "cuda 100": 227 << 10, "hip gfx942": 64 << 10}
# The first Triton that knows a target, where it is not the first that we take.
SINCE = {"cuda 100": (3, 3)}
# What `keep_best` leaves, and what it reads beside gains.
_LEFT = {"best_gains": "*fp32", "best_columns": "*i32", "rests": "*fp32"}
_KEPT = {"duals": "*fp32", **_LEFT}
SHOWN = ("kernel", "target", "configuration", "default", "warps", "stages", "registers", "shared", "spills", "status")


@dataclass(frozen=True)
class Variant:
    """A kernel with its constants, for one target.

    Attributes:
        kernel: "module:name", so that a variant can be sent to another process.
        pointers: types of the arguments that are pointers; those not named here or in `constants` are int32.
        constants: constexpr arguments, and strides of 1.
        aligned: arguments that are multiples of 16, as a launch would find them.
        is_default: whether the library uses it unasked.
    """

    kernel: str
    label: str
    target: str
    pointers: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    warps: int
    stages: int
    is_default: bool = field(default=True)


@dataclass(frozen=True)
class Compiled:
    """What the compiler says: per-thread registers, bytes of shared memory, bytes or registers spilled."""

    variant: Variant
    registers: int
    shared: int
    spills: int


def variants() -> Iterator[Variant]:
    """Every configuration of every kernel, for every target."""
    from .compile_more import halves, rows

    for target in LIMITS:
        for of_kernel in (_products, _groups, halves, _searches, _packings, _interpolations, rows, _overlaps):
            yield from of_kernel(target)


def missing(target: str) -> str | None:
    """What the installed Triton lacks to compile for a target; None: nothing."""
    import triton
    from triton.backends.amd.compiler import HIPBackend

    since = SINCE.get(target, (0,))
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < since:
        return f"triton {'.'.join(map(str, since))}"
    linkers = [os.environ.get("TRITON_HIP_LLD_PATH", ""), "/opt/rocm/llvm/bin/ld.lld", "/usr/bin/ld.lld"]
    # Early ones call ROCm's linker, later ones bring their own.
    outside = target.startswith("hip") and hasattr(HIPBackend, "path_to_rocm_lld")
    return "ROCm's ld.lld" if outside and not any(Path(linker).is_file() for linker in linkers) else None


def compile_variant(variant: Variant) -> Compiled:
    """Compile for the variant's target; whatever Triton raises where it cannot."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget

    module, _, name = variant.kernel.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    backend, _, arch = variant.target.partition(" ")
    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    compiled = triton.compile(_source(kernel, variant), target=target, options=options)
    registers, spills = _nvidia(compiled.asm["cubin"]) if backend == "cuda" else _amd(compiled.asm["amdgcn"])
    return Compiled(variant, registers, int(compiled.metadata.shared), spills)


def _source(kernel: Any, variant: Variant) -> Any:
    """The kernel with the types and constants of a variant, as the Triton that is installed takes them."""
    from triton.backends import compiler
    from triton.compiler import ASTSource

    constants = {key: _language(value) for key, value in variant.constants.items()}
    signature = {
        argument: variant.pointers.get(argument, "i32") for argument in kernel.arg_names if argument not in constants
    }
    aligned = [
        kernel.arg_names.index(argument)
        for argument in (*variant.pointers, *variant.aligned)
        if argument not in constants
    ]
    # Triton 3.2 has a class for what the later ones take as a mapping, and no types for constants.
    descriptor = getattr(compiler, "AttrsDescriptor", None)
    if descriptor is not None:
        found = descriptor.from_dict({"cls": "AttrsDescriptor", "arg_properties": {"tt.divisibility": aligned}})
        return ASTSource(kernel, signature, constants, found)
    signature = {argument: signature.get(argument, "constexpr") for argument in kernel.arg_names}
    return ASTSource(kernel, signature, constants, {(place,): [["tt.divisibility", 16]] for place in aligned})


def register(commands: argparse._SubParsersAction) -> None:
    """Add `compile`."""
    parser = commands.add_parser("compile", help="registers, shared memory and spills of every Triton kernel")
    parser.add_argument("--targets", nargs="+", choices=list(LIMITS), default=list(LIMITS), metavar="TARGET")
    parser.add_argument("--kernel", default="", help="kernels whose name holds this")
    parser.add_argument("--processes", type=int, default=2)
    add_out(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `compile`; 1 if a default spills or needs more shared memory than its card has."""
    import triton

    print(f"triton {triton.__version__}")
    targets = []
    for target in arguments.targets:
        lack = missing(target)
        if lack is None:
            targets.append(target)
        else:
            print(f"{target}: not compiled, it takes {lack}")
    wanted = [v for v in variants() if v.target in targets and arguments.kernel in v.kernel.partition(":")[2]]
    columns = ("command", *SHOWN, "triton", *machine())
    with (
        Report(arguments.out, "compile", columns) as report,
        ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool,
    ):
        for compiled in pool.map(compile_variant, wanted):
            report.add(**_row(compiled), triton=triton.__version__)
        print(table(report.rows, SHOWN))
        print(f"rows: {report.path}")
    return int(any(row["default"] == "yes" and row["status"] != "ok" for row in report.rows))


def _row(compiled: Compiled) -> dict[str, Any]:
    variant = compiled.variant
    wrong = ["spills"] if compiled.spills else []
    if compiled.shared > LIMITS[variant.target]:
        wrong.append("too much shared memory")
    return {
        "kernel": variant.kernel.partition(":")[2],
        "target": variant.target,
        "configuration": variant.label,
        "default": "yes" if variant.is_default else "no",
        "warps": variant.warps,
        "stages": variant.stages,
        "registers": compiled.registers,
        "shared": compiled.shared,
        "spills": compiled.spills,
        "status": ", ".join(wrong) or "ok",
    }


def _products(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.gain_matrix.configs import DEFAULTS, OTHERS
    from lmc_fast.ops.gain_matrix.triton_candidates import KEPT

    maker = target.partition(" ")[0]
    for kind, dtype in (("half", "bf16"), ("float32", "fp32")):
        defaults, others = DEFAULTS[kind, maker], OTHERS[kind, maker]
        for config in (*defaults, *others):
            precisions = ["tf32x3", "ieee"] if (kind, maker) == ("float32", "cuda") else ["ieee"]
            for precision in precisions:
                for gathered in (False, True):
                    # Fused gathers come with B's units in order, others with its entries.
                    ones = ("a_entry", "b_unit") if gathered else ("a_entry", "b_entry")
                    constants = {
                        **dict.fromkeys(ones, 1),
                        "GATHERED": gathered,
                        "PRECISION": precision,
                        "WIDEN": False,
                        **_tile(config),
                        "GROUP": 8,
                    }
                    tile = f"{config.m} x {config.n} x {config.k}, flush {config.flush}"
                    pointers = {"a": f"*{dtype}", "b": f"*{dtype}", "gather": "*i64", "out": "*fp32", **_KEPT}
                    # With an epilogue, in place of the gather: what it keeps of a tile takes registers.
                    for kept in (0,) if gathered else (0, KEPT):
                        more = (", gathered" if gathered else "") + (", candidates" if kept else "")
                        yield Variant(
                            "lmc_fast.ops.gain_matrix.triton_product:product_kernel",
                            f"{dtype} {precision}, {tile}{more}",
                            target,
                            pointers,
                            {**constants, "ADD": bool(kept), "KEPT": kept},
                            ("units", "k", "a_unit", "b_unit", "b_entry", "out_row"),
                            config.warps,
                            config.stages,
                            config in defaults and precision == precisions[0],
                        )


def _tile(config: Any) -> dict[str, int]:
    """The sizes that a product's configuration gives its kernel."""
    return {
        "FLUSH": config.flush,
        "NESTED": config.nested,
        "BLOCK_M": config.m,
        "BLOCK_N": config.n,
        "BLOCK_K": config.k,
    }


def _groups(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.gain_matrix.configs import DEFAULTS, GROUPED_OTHERS

    maker = target.partition(" ")[0]
    for kind, dtype in (("half", "bf16"), ("float32", "fp32")):
        precision = "tf32x3" if (kind, maker) == ("float32", "cuda") else "ieee"
        default = DEFAULTS[kind, maker][2]
        for config in (default, *GROUPED_OTHERS[kind, maker]):
            yield Variant(
                "lmc_fast.ops.gain_matrix.triton_product:grouped_kernel",
                f"{dtype} {precision}, {config.m} x {config.n} x {config.k}, flush {config.flush}",
                target,
                dict.fromkeys(("table", "first_tile", "group_of_tile"), "*i64"),
                {
                    "DTYPE": f"tl.{dtype}",
                    "PRECISION": precision,
                    "WIDEN": False,
                    **_tile(config),
                },
                (),
                config.warps,
                config.stages,
                config == default,
            )


def _searches(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.gain_matrix import triton_candidates as candidates

    rows, columns, warps = candidates.SEARCH_TILE
    for order, ones in (("by rows", ("gain_column",)), ("any strides", ())):
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_candidates:candidates_kernel",
            f"fp32, {rows} x {columns}, {order}",
            target,
            {"gain": "*fp32", **_KEPT},
            {**dict.fromkeys(ones, 1), "KEPT": candidates.KEPT, "BLOCK_M": rows, "BLOCK_N": columns},
            ("rows", "columns", "gain_row"),
            warps,
            1,
        )
    for tiles in (8, 128):
        width = candidates.KEPT * tiles
        rows = max(1, candidates.MERGE_ENTRIES // width)
        yield Variant(
            "lmc_fast.ops.gain_matrix.triton_candidates:merge_kernel",
            f"fp32, {rows} x {width}",
            target,
            {**_LEFT, "chosen": "*i32", "bounds": "*fp32"},
            {"ROWS": rows, "WIDTH": width, "TILES": tiles},
            ("rows", "k"),
            4,
            1,
        )


def _packings(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.gain_matrix.triton_pack import PACK_OTHERS, PACK_TILE

    for tile in (PACK_TILE, *PACK_OTHERS):
        rows, columns, warps = tile
        for dtype in ("bf16", "fp32"):
            yield Variant(
                "lmc_fast.ops.gain_matrix.triton_pack:pack_kernel",
                f"{dtype}, {rows} x {columns}",
                target,
                dict.fromkeys(("jobs", "first_tile", "job_of_tile"), "*i64"),
                {"FROM": f"tl.{dtype}", "TO": f"tl.{dtype}", "ROWS": rows, "COLUMNS": columns},
                (),
                warps,
                1,
                tile == PACK_TILE,
            )


def _interpolations(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.permuted_lerp.triton import CONFIG, OTHERS

    for config in (CONFIG, *OTHERS):
        rows, columns, warps = config
        for dtype in ("fp16", "bf16", "fp32", "fp64"):
            sums = "fp64" if dtype == "fp64" else "fp32"
            for aligned in (True, False):
                yield Variant(
                    "lmc_fast.ops.permuted_lerp.triton:lerp_kernel",
                    f"{dtype}, {rows} x {columns}{', aligned' if aligned else ''}",
                    target,
                    {"table": "*i64", "part_of_tile": "*i64", "first_tile": "*i64", "weights": f"*{sums}"},
                    {
                        "SOURCES": 2,
                        "OUTPUTS": 1,
                        "DTYPE": f"tl.{dtype}",
                        "SUM": f"tl.{sums}",
                        "ALIGNED": aligned,
                        "INDEX": "tl.int32",
                        "ROWS": rows,
                        "COLUMNS": columns,
                    },
                    (),
                    warps,
                    1,
                    config == CONFIG,
                )


def _overlaps(target: str) -> Iterator[Variant]:
    from lmc_fast.ops.spectral_overlap.triton import CONFIG, OTHERS

    pointers = dict.fromkeys(("u_a", "v_a", "u_b", "v_b", "sums"), "*fp32")
    pointers |= {"rows": "*i64", "columns": "*i64", "passes_a": "*i32", "passes_b": "*i32"}
    for config in (CONFIG, *OTHERS):
        block_i, block_j, block_k, warps, stages = config
        yield Variant(
            "lmc_fast.ops.spectral_overlap.triton:overlap_kernel",
            f"fp32, {block_i} x {block_j} x {block_k}",
            target,
            pointers,
            {
                "THRESHOLDS": 2,
                "BY_ROWS": True,
                "BY_COLUMNS": True,
                "PRECISION": "tf32x3" if target.startswith("cuda") else "ieee",
                "BLOCK_I": block_i,
                "BLOCK_J": block_j,
                "BLOCK_K": block_k,
            },
            ("m", "n", "count_a", "count_b", "u_a_row", "v_a_row", "u_b_row", "v_b_row"),
            warps,
            stages,
            config == CONFIG,
        )


def _language(value: Any) -> Any:
    """Dtypes by name, since they do not travel between processes."""
    import triton.language as tl

    names = {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32, "fp64": tl.float64, "int32": tl.int32}
    return names[value.removeprefix("tl.")] if isinstance(value, str) and value.startswith("tl.") else value


def _nvidia(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack: kernels without arrays of their own have one only for what was spilled."""
    import triton.backends.nvidia as nvidia

    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    found = {name: int(number) for name, number in re.findall(r"\b(REG|STACK):(\d+)", done.stdout)}
    return found["REG"], found["STACK"]


def _amd(assembly: str) -> tuple[int, int]:
    found = {name: int(number) for name, number in re.findall(r"\.(vgpr_count|vgpr_spill_count): *(\d+)", assembly)}
    return found["vgpr_count"], found["vgpr_spill_count"]
