"""Kernels compile for GPUs that are not here, and what is used unasked fits them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lmc_fast

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")

from benchmarks.compile import LIMITS, Variant, compile_variant, variants


def chosen() -> list[Variant]:
    """All defaults for one target; for the others, and for the product's epilogue, the largest. `compile` does all."""
    found = []
    seen: set[tuple[str, str, str, bool]] = set()
    for variant in variants():
        if not variant.is_default:
            continue
        dtype = variant.label[:4]
        with_epilogue = variant.label.endswith("candidates")
        key = (variant.target, variant.kernel, dtype, with_epilogue)
        if (variant.target == "cuda 90" and not with_epilogue) or (key not in seen and dtype in ("bf16", "fp32")):
            found.append(variant)
        seen.add(key)
    return found


def test_all_that_tuning_tries_is_listed() -> None:
    from lmc_fast.ops.gain_matrix import configs
    from lmc_fast.ops.gain_matrix.triton_pack import PACK_OTHERS
    from lmc_fast.ops.permuted_lerp import triton as lerp
    from lmc_fast.ops.spectral_overlap import triton as overlap

    sizes = {"pack_kernel": ("ROWS", "COLUMNS"), "lerp_kernel": ("ROWS", "COLUMNS")}
    sizes |= {"overlap_kernel": ("BLOCK_I", "BLOCK_J", "BLOCK_K")}
    sizes |= dict.fromkeys(("product_kernel", "grouped_kernel"), ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    listed = set()
    for v in variants():
        name = v.kernel.partition(":")[2]
        tile = [v.constants[size] for size in sizes.get(name, ())]
        listed.add((v.target.partition(" ")[0], name, *tile, v.warps, v.stages))
    tried = {("cuda", "overlap_kernel", *config) for config in overlap.OTHERS}
    tried |= {("cuda", "pack_kernel", *config, 1) for config in PACK_OTHERS}
    tried |= {("cuda", "lerp_kernel", *config, 1) for config in lerp.OTHERS}
    for name, lists in (("product_kernel", configs.OTHERS), ("grouped_kernel", configs.GROUPED_OTHERS)):
        tried |= {(maker, name, *config[:5]) for (_, maker), found in lists.items() for config in found}
    assert len(tried) >= 24 and tried <= listed


def test_every_kernel_and_target_is_compiled_here() -> None:
    from lmc_fast.ops.permuted_lerp import triton_rows

    for target in LIMITS:
        assert len({variant.kernel for variant in chosen() if variant.target == target}) == 10 + 2 * triton_rows.can()


@pytest.mark.parametrize("target", LIMITS)
def test_defaults_fit_and_spill_nothing(target: str) -> None:
    for variant in chosen():
        if variant.target == target:
            compiled = compile_variant(variant)
            assert compiled.shared <= LIMITS[target], variant
            assert compiled.spills == 0, variant
            assert compiled.registers > 0


def test_a_variant_that_cannot_be_is_seen() -> None:
    """Six stages of the largest tile: more shared memory than the card has, as the table says."""
    (first, *_) = (v for v in variants() if v.target == "cuda 80" and "128 x 128 x 64" in v.label)
    large = Variant(**{**vars(first), "stages": 7})
    assert compile_variant(large).shared > LIMITS["cuda 80"]


def starred_calls(source: str) -> list[str]:
    """Calls inside Triton functions that spread a sequence over their arguments."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    kernels = [node for node in functions if "triton.jit" in map(ast.unparse, node.decorator_list)]
    return [
        f"{kernel.name}: {ast.unparse(node)}"
        for kernel in kernels
        for node in ast.walk(kernel)
        if isinstance(node, ast.Call) and any(isinstance(argument, ast.Starred) for argument in node.args)
    ]


def test_kernels_spread_no_arguments() -> None:
    """The oldest Triton that we take, 3.2, does not compile that; it is not there to try."""
    paths = sorted((Path(lmc_fast.__file__).parent / "ops").rglob("*.py"))
    assert [call for path in paths for call in starred_calls(path.read_text(encoding="utf-8"))] == []
    kernel = "@triton.jit\ndef kernel(a, b):\n    f(*(a, b))\n"
    assert starred_calls(kernel) == ["kernel: f(*(a, b))"]
