"""A package's public names, imported when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["handed_on"]


def handed_on(
    package: str, names: Mapping[str, Sequence[str]], own: Sequence[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """What a package's `__init__` needs to hand names on: its `__all__`, `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its name.
        names: by module of the package, those that it has; a name that is a module's own stands below the package
            that holds it.
        own: further names, which the package has itself.

    Returns:
        All names, sorted; the function that finds one, or a module of the package; the function that lists them.
    """
    module_of = {name: module for module, of_module in names.items() for name in of_module}
    every = sorted([*module_of, *own])
    folder = Path(str(sys.modules[package].__file__)).parent
    # Modules of the package are found too, as they are where all is imported.
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}

    def find(name: str) -> Any:
        """A public name's value or a module of the package; AttributeError for another name."""
        if name in module_of:
            value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
            # From now on without asking.
            setattr(sys.modules[package], name, value)
            return value
        if name in modules and not name.startswith("__"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        """What the package has, and what it hands on."""
        return sorted({*vars(sys.modules[package]), *every})

    return every, find, listed
