"""The core's own test, compiled apart from Python with strict warnings and sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or "g++"


@pytest.mark.parametrize(
    "flags",
    [["-O3"], ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]],
    ids=["optimized", "sanitized"],
)
def test_core(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "lap_test"
    sources = [str(CSRC / "lap.cpp"), str(CSRC / "tests" / "lap_test.cpp")]
    command = [COMPILER, "-std=c++17", *WARNINGS, *flags, f"-I{CSRC}", *sources, "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
