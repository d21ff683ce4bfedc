"""Optional packages: imported when first needed, and named with their extra when they are not there."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from types import ModuleType

__all__ = ["install_line", "require"]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise the ImportError that says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(f"this needs {module.split('.')[0]}, which is not installed: {install_line(extra)}") from None


def install_line(extra: str) -> str:
    """The command that installs an extra: from the clone that the package runs from, or by its name."""
    clone = Path(__file__).resolve().parents[1]
    if not all((clone / name).is_file() for name in ("pyproject.toml", "setup.py")):
        return f"pip install 'lmc_fast[{extra}]'"
    # There may be no package of this name to be had elsewhere, and what is run here is the clone's.
    return f"pip install -e {shlex.quote(f'{clone}[{extra}]')}"
