"""The core's own test, compiled apart from Python with strict warnings and sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or "g++"


# The longest to compile come first.
SOURCES = [CSRC / f"{name}.cpp" for name in ("dense_solver", "lap", "lap_batch", "row_kernels")]
# Lists from 96 columns on, and from 48 where one solver may leave it to the other, so that small problems reach both.
BOTH_SOLVERS = ["-DLMC_SPARSE_FROM=96", "-DLMC_SPARSE_IF_OPEN_FROM=48"]


@pytest.mark.parametrize(
    "flags",
    [
        ["-O3"],
        # The form for processors without AVX2.
        ["-O2", "-DLMC_MOST_LANES=1"],
        ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    ],
    ids=["optimized", "plain", "sanitized"],
)
def test_core(tmp_path: Path, flags: list[str]) -> None:
    sources = [*SOURCES, CSRC / "tests" / "lap_test.cpp"]
    objects = [tmp_path / f"{source.stem}.o" for source in sources]
    compiler = [COMPILER, "-std=c++17", "-pthread", *WARNINGS, *flags, *BOTH_SOLVERS, f"-I{CSRC}"]

    def run(*command: object) -> None:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source, made: run(*compiler, "-c", source, "-o", made), sources, objects))
    run(*compiler, *objects, "-o", tmp_path / "lap_test")
    run(tmp_path / "lap_test")
