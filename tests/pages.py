"""The code of pages, run as a reader would: `python -m tests.pages` draws the figures of the documentation anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+) -->\n)?```(?P<language>python|sh)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        language: "python" or "sh".
        code: its text.
        line: of the page, where the code begins.
        why_not: why it is not run; "" where it is.
    """

    language: str
    code: str
    line: int
    why_not: str


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], text[: found.start("code")].count("\n") + 1, found["why"] or "")
        for found in _BLOCK.finditer(text)
    ]


def pages() -> list[Path]:
    """All pages with code."""
    return [path for path in sorted(DOCS.rglob("*.md")) if blocks(path)]


def run(path: Path, folder: Path, given: dict[str, Any] | None = None) -> str:
    """Run a page's blocks one after another in a folder, python in one namespace; what they print."""
    mpl.use("Agg")
    names = {"__name__": "__page__", **(given or {})}
    said = io.StringIO()
    with _inside(folder), contextlib.redirect_stdout(said):
        for block in blocks(path):
            if block.why_not:
                continue
            if block.language == "python":
                # Errors tell the page's own line.
                exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), names)
            else:
                for line in block.code.splitlines():
                    _command(shlex.split(line, comments=True))
    return said.getvalue()


def _command(words: Sequence[str]) -> None:
    from lmc_fast.cli import cli

    if words[0] != "lmc-fast":
        raise ValueError(f"only lmc-fast is run here, got {words[0]!r}")
    cli.main(list(words[1:]), prog_name="lmc-fast", standalone_mode=False)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(names: Sequence[str]) -> None:
    """Run the pages of these names, or all, and keep the figures that they draw."""
    for path in pages():
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(path.relative_to(ROOT))
            run(path, Path(folder))
            for drawn in sorted(Path(folder).glob("*.png")):
                shutil.copy(drawn, DOCS / "figures" / drawn.name)


if __name__ == "__main__":
    main(sys.argv[1:])
