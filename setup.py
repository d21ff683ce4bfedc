"""Builds the native core; everything else about the package is in pyproject.toml."""

import json
import os
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, naive_recompile
from setuptools import setup
from setuptools.command.build_ext import build_ext

HEADERS = [str(path) for path in sorted(Path("csrc").glob("*.hpp"))]

# Kernels are loops for the compiler's own vectors too. What is promised to be the same for every compiler must not
# depend on where one sees fit to fuse a product with a sum: the core writes that out. (MSVC does so by default.)
# They come last on the line: where CXXFLAGS is set, setuptools leaves out the flags that Python was built with, and
# with them all optimisation.
# LMC_FAST_CFLAGS comes behind even these: for a core with sanitizers, say.
FLAGS = ["/O2"] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"]
FLAGS += os.environ.get("LMC_FAST_CFLAGS", "").split()


class BuildCore(build_ext):
    """Compiles anew where a header or the flags are others than those of the objects that lie there."""

    def build_extensions(self) -> None:
        # What the environment asks for is part of the commands; MSVC's has none of these.
        commands = {
            name: getattr(self.compiler, name, None) for name in ("compiler_so", "compiler_so_cxx", "linker_so")
        }
        line = json.dumps([commands, FLAGS])
        told = Path(self.build_temp, "commands.json")
        if not told.is_file() or told.read_text() != line:
            self.force = True
            # Not until all is done: what a broken build leaves behind is compiled again.
            told.unlink(missing_ok=True)
        with ParallelCompile(default=0, needs_recompile=self.needs_recompile):
            super().build_extensions()
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(line)

    def needs_recompile(self, compiled: str, source: str) -> bool:
        """Whether the source or any header has changed since: which of them a source includes is not looked up."""
        return bool(self.force) or any(naive_recompile(compiled, path) for path in (source, *HEADERS))


# No -march=native: one wheel must run on every machine of its platform. csrc/ chooses SIMD at run time.
native = Pybind11Extension(
    "lmc_fast._native",
    sources=[
        "csrc/bindings.cpp",
        "csrc/bindings_descent.cpp",
        "csrc/bindings_lap.cpp",
        "csrc/bindings_tensors.cpp",
        "csrc/column_products.cpp",
        "csrc/contract.cpp",
        "csrc/dense_solver.cpp",
        "csrc/descent.cpp",
        "csrc/descent_check.cpp",
        "csrc/descent_columns.cpp",
        "csrc/laid_out.cpp",
        "csrc/lap.cpp",
        "csrc/lap_batch.cpp",
        "csrc/lerp_kernels.cpp",
        "csrc/permuted_dot.cpp",
        "csrc/permuted_lerp.cpp",
        "csrc/product_kernels.cpp",
        "csrc/row_kernels.cpp",
    ],
    depends=HEADERS,
    include_dirs=["csrc"],
    extra_compile_args=FLAGS,
    cxx_std=17,
)

setup(ext_modules=[native], cmdclass={"build_ext": BuildCore})
