"""The `lmc-fast` command; says which extra it needs where that is not installed."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from .cli import cli
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in ("click", "rich"):
            raise
        print(f"lmc-fast needs {package}: pip install 'lmc_fast[cli]'", file=sys.stderr)
        sys.exit(2)
    cli()


if __name__ == "__main__":
    main()
