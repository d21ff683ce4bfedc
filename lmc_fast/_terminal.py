"""Text for people: what their terminal can show, and as wide as it is."""

from __future__ import annotations

import codecs
import io
import os
import shutil
from typing import TextIO

__all__ = ["forgiving", "make_readable", "readable", "width_of"]

ERRORS = "lmc_fast.readable"
READABLE = {
    "→": "->", "←": "<-", "↔": "<->", "±": "+-", "×": "x", "·": "*", "•": "*", "—": "--", "–": "-", "−": "-",
    "…": "...", "‘": "'", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "≈": "~", "λ": "lambda", "γ": "gamma",
}  # fmt: skip


def readable(text: str, encoding: str | None) -> str:
    """`text` with what the encoding lacks in other words."""
    name = encoding or "utf-8"
    return text.encode(name, ERRORS).decode(name, "surrogateescape")


def make_readable(*streams: TextIO) -> None:
    """Have streams write what their encoding lacks in other words, where they would raise."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream writes to; None for what is no terminal, and takes any width."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def forgiving(stream: TextIO | None) -> TextIO:
    """The stream of a process's output, as one that takes no offence when its reader goes away."""
    if stream is None:
        # Closed by the caller: without this the next file to be opened would be the output.
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if os.name != "posix" or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = _Outlet(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.isatty(),
        write_through=stream.write_through,
    )


class _Outlet(io.FileIO):
    """A file whose reader may go away. What stdout cannot hold is told once, and what follows it is thrown away."""

    failed = False

    def write(self, data: object) -> int:
        """Write bytes, and return how many; raises OSError, named "stdout", once, where stdout cannot hold them."""
        if not self.failed:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.failed = True
                if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                    raise OSError(error.errno, error.strerror, "stdout") from None
        return memoryview(data).nbytes  # type: ignore[arg-type]


def _in_other_words(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    out: list[str] = []
    for letter in error.object[error.start : error.end]:
        code = ord(letter)
        if 0xDC80 <= code <= 0xDCFF:
            # A byte of a file's name that is no text; it goes out as it came in.
            if not out:
                return bytes([code - 0xDC00]), error.start + 1
            return "".join(out), error.start + len(out)
        out.append(READABLE.get(letter) or _drawn(code) or letter.encode("ascii", "backslashreplace").decode())
    return "".join(out), error.end


def _drawn(code: int) -> str | None:
    """Lines of tables and bars, by their place in Unicode."""
    if not 0x2500 <= code <= 0x28FF:
        return None
    if code in (0x2500, 0x2501, 0x2504, 0x2505, 0x2508, 0x2509, 0x254C, 0x254D, 0x2550, 0x2574, 0x2576, 0x2578, 0x257A):
        return "-"
    if code in (0x2502, 0x2503, 0x2506, 0x2507, 0x250A, 0x250B, 0x254E, 0x254F, 0x2551, 0x2575, 0x2577, 0x2579, 0x257B):
        return "|"
    if code <= 0x257F:
        return "+"
    return "#" if code <= 0x259F else "*"


codecs.register_error(ERRORS, _in_other_words)
