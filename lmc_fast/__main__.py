"""The `lmc-fast` command; says which extra it needs where that is not installed."""

from __future__ import annotations

import sys

from ._extras import install_line
from ._signals import listen, stop_of, tell
from ._terminal import forgiving

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    listen()
    try:
        sys.stdout, sys.stderr = forgiving(sys.stdout), forgiving(sys.stderr)
        code = _run()
    except KeyboardInterrupt as error:
        code = tell(stop_of(error))
    sys.exit(code)


def _run() -> int:
    try:
        import click

        from .cli import cli
    except ModuleNotFoundError as error:
        return _missing(error)
    try:
        # What click itself makes of an interrupt is another sentence and exit code 1.
        code = cli.main(prog_name="lmc-fast", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        return tell(stop_of(error))
    except ModuleNotFoundError as error:
        # Of a command that is imported when it is called.
        return _missing(error)
    except OSError as error:
        print(f"lmc-fast: {error.filename!r}: {error.strerror}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


def _missing(error: ModuleNotFoundError) -> int:
    """Say which extra brings a package that is not there; raise the error again if none does."""
    package = (error.name or "").split(".")[0]
    if package not in ("click", "rich"):
        raise error
    print(f"lmc-fast needs {package}: {install_line('cli')}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
