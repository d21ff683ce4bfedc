"""The repository's own rules: import direction, public names, versions, what a wheel holds."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lmc_fast

from . import conftest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lmc_fast"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the ground up: a room imports from lower ones, and from itself.
ROOMS = [
    {"_version", "_checks", "_extras", "_files", "_lazy", "_native", "_nested", "_terminal"},
    {"_batches", "_derived", "_modes", "_norms", "_references", "_results", "_safetensors", "_signals", "_tensors"},
    {"_copies"},
    {"_wrappers"},
    {"_backend", "_chunks", "_models", "_progress"},
    {"_calls", "_entry_weights"},
    {"ops", "assignment"},
    {"symmetry"},
    {"matching"},
    {"merging"},
    {"repairing"},
    {"compat"},
    {"analysis"},
    {"checkpoints"},
    {"large"},
    {"report"},
    {"experiments"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of the package's modules that a file imports, inside functions as well."""
    package = ["lmc_fast", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "lmc_fast"}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            if parts and parts[0] == "lmc_fast":
                # `from . import x` imports modules; elsewhere the names may be functions.
                found |= {".".join(parts if node.module else [*parts, alias.name]) for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def wrong_imports(path: Path) -> list[str]:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return [
        module for module in imported_modules(path) if room(module) != here and not LEVEL[room(module)] < LEVEL[here]
    ]


# All files in one test: one each took a hundred times as long as the look at it.
def test_imports_go_down() -> None:
    wrong = {path: wrong_imports(path) for path in FILES if path != PACKAGE / "__init__.py"}
    assert {str(path.relative_to(PACKAGE)): modules for path, modules in wrong.items() if modules} == {}


# Rooms of matching/ below its methods.
MATCHING_ROOMS = ("engine", "activations", "results")


@pytest.mark.parametrize("name", MATCHING_ROOMS)
def test_rooms_of_matching_take_nothing_from_methods_or_each_other(name: str) -> None:
    for path in (PACKAGE / "matching" / name).glob("*.py"):
        for module in imported_modules(path):
            if room(module) == "matching":
                assert module.split(".")[2] == name, f"{path.name} imports {module}"


def test_benchmarks_never_import_tests() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] == "tests"], path.name


def test_an_import_that_goes_up_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "symmetry").mkdir()
    path = tmp_path / "symmetry" / "x.py"
    path.write_text("from ..matching import Matching\nfrom .groups import Group\nfrom .._checks import fail_type\n")
    assert wrong_imports(path) == ["lmc_fast.matching"]


INIT_FILES = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]


@pytest.mark.parametrize("path", INIT_FILES, ids=lambda p: p.parent.name)
def test_init_files_only_hand_names_on(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]
        assert is_docstring or is_all or isinstance(node, (ast.Import, ast.ImportFrom)), ast.unparse(node)


def test_all_names_exist() -> None:
    wrong: dict[str, list[str]] = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        names = getattr(module, "__all__", [])
        lacking = [name for k, name in enumerate(names) if name in names[:k] or not hasattr(module, name)]
        if lacking:
            wrong[module.__name__] = lacking
    assert wrong == {}


def test_public_names_are_the_same_for_programs_and_for_type_checkers() -> None:
    here = {room: sorted(names) for room, names in vars(lmc_fast)["NAMES"].items()}
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    typed = {str(node.module): sorted(alias.name for alias in node.names) for node in imports}
    listed = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert [sorted(names) for names in listed] == [lmc_fast.__all__]
    assert typed == {**here, "_version": ["__version__"]}
    assert lmc_fast.__all__ == sorted(name for names in typed.values() for name in names)


def test_no_public_name_is_a_modules_too() -> None:
    # That module would stand in its place once it has been imported.
    assert [name for name in lmc_fast.__all__ if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).exists()] == []


def test_names_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import sys\n"
        "import lmc_fast\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(lmc_fast.__all__) <= set(dir(lmc_fast))\n"
        "assert lmc_fast.symmetry.Group is lmc_fast.Group\n"
        "assert 'lmc_fast.matching' not in sys.modules\n"
        "from lmc_fast import *\n"
        "assert repair is lmc_fast.repair and callable(repair)\n"
        "try:\n"
        "    lmc_fast.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "module 'lmc_fast' has no attribute 'nothing'"


def test_the_commands_are_listed_without_torch() -> None:
    code = (
        "import sys\n"
        "from lmc_fast.cli import cli\n"
        "try:\n"
        "    cli(['--help'])\n"
        "except SystemExit:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False"
    assert "rebase" in done.stdout


def test_public_names_have_docstrings() -> None:
    for name in lmc_fast.__all__:
        if name != "__version__":
            assert (getattr(lmc_fast, name).__doc__ or "").strip(), name


def test_only_the_backend_reads_the_environment() -> None:
    readers = [
        path.relative_to(PACKAGE)
        for path in FILES
        if path.name != "_backend.py" and re.search(r"os\.(environ|getenv)", path.read_text(encoding="utf-8"))
    ]
    assert readers == []


def test_import_needs_only_torch_and_numpy() -> None:
    code = (
        "import sys\n"
        "for name in ('scipy', 'sklearn', 'matplotlib', 'safetensors', 'click', 'rich', 'triton'):\n"
        "    sys.modules[name] = None\n"
        "import lmc_fast\n"
        "print(lmc_fast.linear_sum_assignment([[1, 2], [0, 3]])[1].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 0]"


def test_the_native_module_is_the_one_that_is_typed() -> None:
    native = importlib.import_module("lmc_fast._native")
    stub = ast.parse((PACKAGE / "_native.pyi").read_text(encoding="utf-8"))
    typed = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert typed == {name for name in dir(native) if not name.startswith("_")}


def test_the_readme_and_ci_say_the_same_test_line() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^python3 -m venv .*pytest -n auto$", readme, re.MULTILINE)
    assert len(lines) == 1
    assert lines[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "marks", "args", "runs"),
    [
        ({}, "", ["tests"], False),
        ({"--slow": True}, "", ["tests"], True),
        ({}, "slow", ["tests"], True),
        ({}, "gpu", ["tests/test_x.py"], False),
        ({}, "", ["tests/test_x.py::test_x"], True),
    ],
    ids=["unasked", "--slow", "-m slow", "-m gpu", "by its name"],
)
def test_slow_tests_run_where_they_are_asked_for(
    options: dict[str, bool], marks: str, args: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def item(*names: str) -> Any:
        return SimpleNamespace(get_closest_marker=lambda name: name if name in names else None)

    left: list[Any] = []
    config = SimpleNamespace(
        getoption={"--slow": False, "-m": marks, **options}.__getitem__,
        args=args,
        hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items)),
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain, slow, interpreted = item(), item("slow"), item("interpreter")
    items = [plain, slow, interpreted]
    conftest.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    assert items == ([slow, plain] if runs else [plain])
    assert left == ([interpreted] if runs else [slow, interpreted])


def test_readme_links_and_names_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"\blmc\.([A-Za-z_]+)", readme):
        assert name in lmc_fast.__all__, name


@pytest.mark.slow
def test_the_wheel_and_the_sdist_hold_what_they_should(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (sdist,) = tmp_path.glob("*.tar.gz")
    (wheel,) = tmp_path.glob("*.whl")
    assert sdist.name == f"lmc_fast-{lmc_fast.__version__}.tar.gz"
    listing = subprocess.run(["tar", "tzf", str(sdist)], capture_output=True, text=True, check=True).stdout
    for name in ("csrc/lap.cpp", "csrc/lap.hpp", "setup.py", "LICENSE", "README.md", "tests/conftest.py"):
        assert f"/{name}\n" in listing, name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names}
    assert roots == {"lmc_fast", f"lmc_fast-{lmc_fast.__version__}.dist-info"}
    assert {"lmc_fast/py.typed", "lmc_fast/_native.pyi"} <= set(names)
    assert any(re.fullmatch(r"lmc_fast/_native\..*(so|pyd)", name) for name in names)
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {str(path.relative_to(ROOT)) for path in FILES}
