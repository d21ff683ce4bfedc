"""The core's own tests, compiled apart from Python: with strict warnings, with sanitizers, and for AArch64.

Each program runs in every form of the kernels that the processor has. Objects are kept in pytest's cache under a hash
of all that goes into them, so that only what has changed is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or "g++"
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
COMMON = ["-std=c++17", "-pthread", "-ffp-contract=off", f"-I{CSRC}"]
COMMON += ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
# Lists from 96 columns on, and from 48 where one solver may leave it to the other, so that small problems reach both.
COMMON += ["-DLMC_SPARSE_FROM=96", "-DLMC_SPARSE_IF_OPEN_FROM=48"]
SANITIZED = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# All but what faces Python; the longest to compile come first.
LONG = ["dense_solver", "lap", "lap_batch", "lerp_kernels", "row_kernels"]
SOURCES = [*LONG, *sorted({path.stem for path in CSRC.glob("[!b]*.cpp")} - {*LONG})]
PROGRAMS = ["lap_test", "kernels_test", "descent_test"]
X86 = platform.machine() in ("x86_64", "AMD64")


@cache
def version_of(compiler: str) -> str:
    return run(compiler, "--version")


def run(*command: object) -> str:
    """What the command prints; AssertionError with its errors if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def kept(folder: Path, parts: list[str], make: list[object]) -> Path:
    """The file that the command `make`, given `-o` and its path, makes of `parts`; made where it is not there yet."""
    name = hashlib.sha256("\0".join([*parts, *map(str, make)]).encode()).hexdigest()
    path = folder / name
    if not path.exists():
        # Whoever else makes it at the same time puts the same file in its place.
        aside = folder / f"{name}.{os.getpid()}"
        run(*make, "-o", aside)
        aside.replace(path)
    return path


def programs(folder: Path, compiler: str, flags: list[str]) -> list[Path]:
    """The core's test programs."""
    headers = [path.read_text(encoding="utf-8") for path in sorted(CSRC.glob("*.hpp"))]
    command = [compiler, *COMMON, *flags]

    def compiled(source: Path) -> Path:
        text = source.read_text(encoding="utf-8")
        return kept(folder, [version_of(compiler), text, *headers], [*command, "-c", source])

    def linked(program: Path) -> Path:
        return kept(folder, [version_of(compiler)], [*command, program, *objects])

    with ThreadPoolExecutor() as pool:
        sources = [CSRC / f"{name}.cpp" for name in SOURCES]
        tests = [CSRC / "tests" / f"{name}.cpp" for name in PROGRAMS]
        objects = list(pool.map(compiled, [*sources, *tests]))
        objects, mains = objects[: len(sources)], objects[len(sources) :]
        return list(pool.map(linked, mains))


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Where objects are kept from one run to the next."""
    return Path(request.config.cache.mkdir("core"))


def forms_of(lines: list[str]) -> set[int]:
    """Doubles in a register of the forms that ran; what each program prints is "ok" and that number."""
    assert lines and all(line.startswith("ok ") for line in lines), lines
    return {int(line.split()[1]) for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-O3"], SANITIZED], ids=["optimized", "sanitized"])
def test_core(folder: Path, flags: list[str]) -> None:
    lap, *others = programs(folder, COMPILER, flags)
    lanes = [1, 2, 4, 8] if X86 else [1, 2]
    # Sanitizers watch the assignment solver in its widest form alone, as they make it slow.
    jobs = [(lap, n) for n in (lanes if flags != SANITIZED else lanes[-1:])] + [
        (other, n) for other in others for n in lanes
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda job: run(*job).strip(), jobs))
    # Wider forms than the processor runs are left out: what ran is told, and the narrow ones always do.
    assert {1, 2} <= forms_of(found)


@pytest.mark.slow
def test_core_on_aarch64(folder: Path, request: pytest.FixtureRequest) -> None:
    missing = [program for program in (CROSS_COMPILER, EMULATOR) if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found (Debian: g++-aarch64-linux-gnu and qemu-user)"
        if request.config.getoption("--require-cross"):
            pytest.fail(f"--require-cross: {reason}")
        pytest.skip(reason)
    built = programs(folder, CROSS_COMPILER, ["-O2", "-static"])
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda program: run(EMULATOR, program).strip(), built))
    assert forms_of(found) == {2}
