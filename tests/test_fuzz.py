"""Random calls of the native core with hostile tensors: some in this process, many under AddressSanitizer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from .fuzz import calls

ROOT = Path(__file__).parent.parent
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"


# A read of one entry behind the end of a tensor, which has to be seen for the rest to mean anything.
BEYOND = """
import torch
from lmc_fast import _native
a, out = torch.zeros(64), torch.zeros(65)
_native.permuted_lerp([(2, [65], [a.data_ptr()], [[1]], [[0]], [out.data_ptr()])], [[1.0]])
"""


def check_told(told: dict[str, dict[str, int]], count: int) -> None:
    """Every function was called, and each of its calls was legal or refused; some of each."""
    assert sum(sum(of.values()) for of in told.values()) == count
    assert set(told) == set(calls.CALLS)
    for name, of in told.items():
        assert of["legal"] > sum(of.values()) / 4, name
        assert of.get("ValueError", 0) + of.get("TypeError", 0) > 0, name


def test_hostile_tensors_are_refused_and_others_summed() -> None:
    check_told(calls.run(480, seed=3), 480)


def test_a_wrong_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "permuted_dot", lambda *_: 1e9)
    with pytest.raises(AssertionError):
        calls.run(80, seed=0, risk=0)


def test_another_exception_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(calls, "permuted_dot", broken)
    with pytest.raises(KeyError):
        calls.run(80, seed=0, risk=0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the sanitizer's library as Linux has it")
def test_no_call_makes_the_core_touch_memory_that_is_not_its_own(tmp_path: Path) -> None:
    # The second for the first to find what throws.
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    package = tmp_path / "package"
    package.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, package)
    shutil.copytree(ROOT / "csrc", package / "csrc")
    shutil.copytree(ROOT / "lmc_fast", package / "lmc_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # Optimised less it is compiled in half of the time.
    flags = {"CFLAGS": FLAGS, "CXXFLAGS": FLAGS, "LMC_FAST_CFLAGS": "-O1", "LDFLAGS": "-fsanitize=address,undefined"}
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(package)],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "sanitized"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    shutil.copytree(ROOT / "tests" / "fuzz", place / "tests" / "fuzz")
    (place / "tests" / "__init__.py").touch()
    environment = {
        # Lines of Python are not what is looked at: with them counted it takes twice as long.
        **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        "LD_PRELOAD": " ".join(libraries),
        # Python frees nothing at its end; a request beyond all memory is to fail, as it does without the sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(place),
    }
    # From there: Python looks in the current folder first, where a core without the sanitizer may lie.
    fault = subprocess.run(
        [sys.executable, "-c", BEYOND], env=environment, cwd=place, capture_output=True, text=True, check=False
    )
    assert "heap-buffer-overflow" in fault.stderr
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fuzz.calls", "--calls", "20000"],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "runtime error" not in done.stderr
    told = {name: Counter(of) for name, of in json.loads(done.stdout.splitlines()[-1]).items()}
    check_told(told, 20_000)
