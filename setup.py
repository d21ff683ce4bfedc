"""Builds the native core; everything else about the package is in pyproject.toml."""

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, naive_recompile
from setuptools import setup

# No -march=native: one wheel must run on every machine of its platform. csrc/ chooses SIMD at run time.
native = Pybind11Extension(
    "lmc_fast._native",
    sources=["csrc/bindings.cpp", "csrc/lap.cpp"],
    depends=["csrc/lap.hpp", "csrc/row_scan.hpp"],
    include_dirs=["csrc"],
    cxx_std=17,
)

with ParallelCompile(default=0, needs_recompile=naive_recompile):
    setup(ext_modules=[native])
