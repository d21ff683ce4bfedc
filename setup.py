"""Builds the native core; everything else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, naive_recompile
from setuptools import setup

HEADERS = [str(path) for path in sorted(Path("csrc").glob("*.hpp"))]


def needs_recompile(compiled: str, source: str) -> bool:
    """Whether the source or any header has changed since: which of them a source includes is not looked up."""
    return any(naive_recompile(compiled, path) for path in (source, *HEADERS))


# Kernels are loops for the compiler's own vectors too. What is promised to be the same for every compiler must not
# depend on where one sees fit to fuse a product with a sum: the core writes that out. (MSVC does so by default.)
FLAGS = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"]

# No -march=native: one wheel must run on every machine of its platform. csrc/ chooses SIMD at run time.
native = Pybind11Extension(
    "lmc_fast._native",
    sources=[
        "csrc/bindings.cpp",
        "csrc/contract.cpp",
        "csrc/dense_solver.cpp",
        "csrc/laid_out.cpp",
        "csrc/lap.cpp",
        "csrc/lap_batch.cpp",
        "csrc/lerp_kernels.cpp",
        "csrc/permuted_dot.cpp",
        "csrc/permuted_lerp.cpp",
        "csrc/row_kernels.cpp",
    ],
    depends=HEADERS,
    include_dirs=["csrc"],
    extra_compile_args=FLAGS,
    cxx_std=17,
)

with ParallelCompile(default=0, needs_recompile=needs_recompile):
    setup(ext_modules=[native])
