"""Optional packages: imported when first needed, and named with their extra when they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise the ImportError that says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(
            f"this needs {module.split('.')[0]}, which is not installed: pip install 'lmc_fast[{extra}]'"
        ) from None
