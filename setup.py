"""Builds the native core; everything else about the package is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, naive_recompile
from setuptools import setup

HEADERS = [str(path) for path in sorted(Path("csrc").glob("*.hpp"))]


def needs_recompile(compiled: str, source: str) -> bool:
    """Whether the source or any header has changed since: which of them a source includes is not looked up."""
    return any(naive_recompile(compiled, path) for path in (source, *HEADERS))


# No -march=native: one wheel must run on every machine of its platform. csrc/ chooses SIMD at run time.
native = Pybind11Extension(
    "lmc_fast._native",
    sources=[
        "csrc/bindings.cpp",
        "csrc/contract.cpp",
        "csrc/dense_solver.cpp",
        "csrc/lap.cpp",
        "csrc/lap_batch.cpp",
        "csrc/lerp_kernels.cpp",
        "csrc/permuted_dot.cpp",
        "csrc/permuted_lerp.cpp",
        "csrc/row_kernels.cpp",
    ],
    depends=HEADERS,
    include_dirs=["csrc"],
    cxx_std=17,
)

with ParallelCompile(default=0, needs_recompile=needs_recompile):
    setup(ext_modules=[native])
