"""Kernels compile for GPUs that are not here, and what is used unasked fits them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

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


def test_defaults_fit_and_spill_nothing() -> None:
    found = chosen()
    assert {variant.target for variant in found} == set(LIMITS)
    assert len({variant.kernel for variant in found}) == 7
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for compiled in pool.map(compile_variant, found, chunksize=4):
            variant = compiled.variant
            assert compiled.shared <= LIMITS[variant.target], variant
            assert compiled.spills == 0, variant
            assert compiled.registers > 0


def test_a_variant_that_cannot_be_is_seen() -> None:
    """Six stages of the largest tile: more shared memory than the card has, as the table says."""
    (first, *_) = (v for v in variants() if v.target == "cuda 80" and "128 x 128 x 64" in v.label)
    large = Variant(**{**vars(first), "stages": 7})
    assert compile_variant(large).shared > LIMITS["cuda 80"]
