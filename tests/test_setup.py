"""How the core is compiled: which flags a compiler gets, and when it is asked again. The compiler here only listens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmc_fast import _native, backends

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="MSVC takes no flags from the environment")
COMPILER = """#!{python}
import sys
import time
from pathlib import Path

with open({heard!r}, "a") as file:
    print(*sys.argv[1:], file=file)
if "-o" in sys.argv:
    Path(sys.argv[sys.argv.index("-o") + 1]).touch()
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc", ignore=shutil.ignore_patterns("tests"))
    (tmp_path / "lmc_fast").mkdir()
    for name in ("__init__.py", "_version.py"):
        shutil.copy(ROOT / "lmc_fast" / name, tmp_path / "lmc_fast")
    compiler = tmp_path / "g++"
    compiler.write_text(COMPILER.format(python=sys.executable, heard=str(tmp_path / "heard")))
    compiler.chmod(0o755)
    return tmp_path


def compiled(clone: Path, flags: str) -> list[list[str]]:
    """The compiler's arguments, once for each source that it was asked to compile."""
    heard = clone / "heard"
    heard.unlink(missing_ok=True)
    compiler = str(clone / "g++")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    names = {"CC": compiler, "CXX": compiler, "CFLAGS": flags, "CXXFLAGS": flags}
    subprocess.run(command, cwd=clone, env={**os.environ, **names}, check=True, capture_output=True)
    lines = [line.split() for line in heard.read_text().splitlines()] if heard.exists() else []
    return [line for line in lines if "-c" in line]


def test_flags_of_the_environment_take_no_optimisation_away(clone: Path) -> None:
    lines = compiled(clone, "-g -O0")
    assert len(lines) == len(list((clone / "csrc").glob("*.cpp")))
    for line in lines:
        assert "-g" in line
        assert [flag for flag in line if flag.startswith("-O")][-1] == "-O3"
        assert "-ffp-contract=off" in line


def test_a_core_for_the_debugger_can_be_had(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMC_FAST_CFLAGS", "-O1 -fsanitize=address")
    for line in compiled(clone, "-g"):
        assert [flag for flag in line if flag.startswith("-O")][-1] == "-O1"
        assert "-fsanitize=address" in line


@pytest.mark.slow
def test_other_flags_and_headers_compile_anew_and_nothing_else_does(clone: Path) -> None:
    every = len(compiled(clone, "-g"))
    assert compiled(clone, "-g") == []
    assert len(compiled(clone, "-g1")) == every
    header = clone / "csrc" / "simd.hpp"
    later = time.time() + 100
    os.utime(header, (later, later))
    assert len(compiled(clone, "-g1")) == every


def test_backends_tell_how_the_core_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, is_optimized, simd = _native.build()
    assert is_optimized
    assert backends().core == f"{compiler}, optimised, {simd}"
    assert f"native  yes: {compiler}, optimised, {simd}" in str(backends())
    monkeypatch.setattr(_native, "build", lambda: ("GCC 1", False, "SSE2"))
    assert "NOT OPTIMISED" in str(backends())
