"""The command as a process: signals, pipes that close, disks that fill up, terminals that know little."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lmc_fast as lmc
from lmc_fast._terminal import readable
from lmc_fast.checkpoints import save_checkpoint
from lmc_fast.cli import cli

from . import forked

COMMAND = [sys.executable, "-m", "lmc_fast"]
ROOT = str(Path(__file__).parents[1])
ALIGN = ["align", "a.safetensors", "b.safetensors", "--spec", "spec.json", "-o", "out.safetensors", "--force"]
ANALYZE = ["analyze", "a.safetensors", "b.safetensors", "--spec", "spec.json"]


def net(seed: int, width: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        save_checkpoint(f"{name}.safetensors", net(seed, 8).state_dict())
    lmc.architectures.mlp(net(0, 8)).to_json("spec.json")
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Runs a command in which `hold` waits where a test wants to interrupt it: in the middle of a file, in native code that
# does not listen, or while modules are imported.
HELD = """
import sys, time
from lmc_fast import _signals
_signals.GRACE = 0.5
def hold():
    print("ready", flush=True)
    {hold}
{patch}
sys.argv = ["lmc-fast", *sys.argv[1:]]
from lmc_fast.__main__ import main
main()
"""
SLEEP = "time.sleep(60)"
# As native code does that hears nothing: the interpreter comes to no next step.
DEAF = "import ctypes; ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)"
IN_A_FILE = """
from lmc_fast import _safetensors
plain = _safetensors._bytes_of
_safetensors._bytes_of = lambda tensor: (hold(), plain(tensor))[1]
"""
IN_THE_DEMO = """
from lmc_fast.experiments import demo
demo.train = lambda *_, **__: hold()
"""
IN_A_STAGE = """
from lmc_fast.experiments.cache import ModelCache
ModelCache.get = lambda *_, **__: hold()
"""
IN_THE_ANALYSIS = """
from lmc_fast.report import figures
figures.svg_text = lambda *_: hold()
"""
PHASES: dict[str, tuple[str, str, list[str], str, set[str]]] = {
    "align, in a file": (IN_A_FILE, SLEEP, ALIGN, "", set()),
    "align, deaf": (IN_A_FILE, DEAF, ALIGN, "", set()),
    "demo": (IN_THE_DEMO, SLEEP, ["demo", "--quick"], "", set()),
    "paper": (
        IN_A_STAGE,
        SLEEP,
        ["paper", "--quick", "--processes", "1"],
        "; the same command goes on from here",
        {"lmc-fast-paper"},
    ),
    "analyze": (IN_THE_ANALYSIS, SLEEP, [*ANALYZE, "--out", "result"], "", set()),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(("patch", "hold", "arguments", "hint", "more"), PHASES.values(), ids=PHASES.keys())
def test_a_signal_ends_every_command_in_one_sentence_with_nothing_left(
    folder: Path, patch: str, hold: str, arguments: list[str], hint: str, more: set[str], number: signal.Signals
) -> None:
    before = names(folder)
    code = HELD.format(hold=hold, patch=patch)
    with forked.start(["-c", code, *arguments], stdout=forked.PIPE, stderr=forked.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1:] == [f"lmc-fast: {words}{hint}"] and "Traceback" not in errors
    # A line that is being written as the signal comes may be written again.
    assert len(errors.splitlines()) == 1 and set(output.splitlines()) <= {"ready"}
    assert names(folder) - before == more


def test_a_second_signal_does_not_break_into_the_cleaning_up(folder: Path) -> None:
    patch = IN_A_FILE + "\nfrom lmc_fast import _files\nremove = _files._remove\n"
    patch += "_files._remove = lambda path: (print('cleaning', flush=True), time.sleep(0.3), remove(path))\n"
    words = ["-c", HELD.format(hold=SLEEP, patch=patch), *ALIGN]
    with forked.start(words, stdout=forked.PIPE, stderr=forked.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert "cleaning\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors == "lmc-fast: interrupted\n"
    assert names(folder) == {"a.safetensors", "b.safetensors", "spec.json"}


# A package of torch's name that waits: what is interrupted is the import of this one.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_the_command_is_imported(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(lmc.__file__).parents[1])])
    with subprocess.Popen(
        [*COMMAND, *ALIGN],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert errors == f"lmc-fast: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


LIBRARY = """
import os, signal, sys
import lmc_fast
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
from pathlib import Path
from lmc_fast._files import write_aside
try:
    write_aside(Path("file"), lambda part: (part.write_text("half"), os.kill(os.getpid(), signal.SIGINT)))
except KeyboardInterrupt:
    print(os.listdir("."))
"""


def test_a_program_that_imports_the_package_keeps_its_signals(tmp_path: Path) -> None:
    done = forked.run(["-c", LIBRARY], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_what_was_ignored_stays_ignored(folder: Path) -> None:
    """As nohup has it."""
    code = HELD.format(hold="import os, signal; os.kill(os.getpid(), signal.SIGHUP)", patch=IN_A_FILE)
    done = forked.run(["-c", "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + code, *ALIGN])
    assert done.returncode == 0, done.stderr
    assert "out.safetensors" in names(folder)


@pytest.mark.parametrize("command", [ALIGN, ANALYZE, ["--help"]], ids=["align", "analyze", "help"])
def test_a_reader_that_goes_away_is_no_error(folder: Path, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = forked.run(["-m", "lmc_fast", *command], stdout=closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert (command is not ALIGN) or "out.safetensors" in names(folder)


def test_an_output_that_is_closed_from_the_start_is_no_error(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *ALIGN], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_an_output_on_a_full_disk_is_one_line(folder: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = forked.run(["-m", "lmc_fast", *ALIGN], stdout=full)
    assert (done.returncode, done.stderr) == (2, "lmc-fast: 'stdout': No space left on device\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "out.safetensors"), 2, "'out.safetensors': No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["disk", "interrupt"],
)
@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (ALIGN, "lmc_fast.checkpoints.files.read_checkpoint"),
        (ANALYZE, "lmc_fast.experiments.analyze.analyze_checkpoints"),
        (["demo", "--quick"], "lmc_fast.experiments.demo.run_demo"),
        (["paper", "--quick"], "lmc_fast.experiments.paper.run_paper"),
    ],
    ids=["align", "analyze", "demo", "paper"],
)
def test_errors_and_interrupts_are_one_line_in_every_command(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    place: str,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code
    hint = "; the same command goes on from here" if code == 130 and arguments[0] == "paper" else ""
    assert result.stderr == f"lmc-fast: {message}{hint}\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "a -> b +- 1 |--| ~ caf\\xe9"),
        ("latin-1", "a -> b ± 1 |--| ~ café"),
        ("utf-8", "a → b ± 1 │──│ ≈ café"),
    ],
)
def test_what_an_encoding_lacks_is_said_in_other_words(encoding: str, expected: str) -> None:
    assert readable("a → b ± 1 │──│ ≈ café", encoding) == expected


@pytest.mark.parametrize("letter", [chr(code) for code in (*range(0x2500, 0x2580, 7), 0x2588, 0x2801, 0x2014, 0x1F600)])
def test_no_letter_is_too_much_for_ascii(letter: str) -> None:
    assert readable(letter, "ascii").isascii()


def test_bytes_of_a_file_name_that_are_no_text_go_out_as_they_are() -> None:
    assert "ab\udcffcd".encode("utf-8", "lmc_fast.readable") == b"ab\xffcd"
    assert "→\udcff→".encode("ascii", "lmc_fast.readable") == b"->\xff->"


LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "broken": {"LC_ALL": "xx_YY.nonsense", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES.keys())
def test_a_simple_stdout_shows_all_that_was_computed(folder: Path, locale: dict[str, str]) -> None:
    # How Python sets up stdout is asked of one that imports nothing.
    asked = "import json, sys; print(json.dumps({'encoding': sys.stdout.encoding, 'errors': sys.stdout.errors}))"
    told = subprocess.run([sys.executable, "-c", asked], env={**os.environ, **locale}, capture_output=True, check=True)
    code = (
        "import sys\n"
        f"sys.stdout.reconfigure(**{json.loads(told.stdout)})\n"
        "from tests.experiments.test_demo_tables import tables\n"
        "from lmc_fast._terminal import make_readable\n"
        "from lmc_fast.experiments.demo_tables import show\n"
        "make_readable(sys.stdout)\n"
        "for table in tables(): show(table)\n"
    )
    with (tmp := folder / "shown").open("wb") as shown:
        done = forked.run(["-c", code], env={**os.environ, **locale, "PYTHONPATH": ROOT}, stdout=shown)
    assert done.returncode == 0, done.stderr
    text = tmp.read_bytes().decode("latin-1")
    assert "-> 0.250" in text and "seeds 0, 1" in text and "seeds 0, 1, 2" in text and "sinkhorn" in text
    # Laid out for what is printed: the lines of a table are equally long.
    rows = [line for line in text.split("The mean")[0].splitlines() if line.startswith("|")]
    assert rows and {len(row) for row in rows} == {len(rows[0])}


def on_a_terminal(columns: int, words: list[str]) -> str:
    """What Python with these words writes to a terminal of so many columns."""
    handle, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # Told by whoever runs the tests, and no width of this terminal.
    inherited = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = {**inherited, "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": ROOT}
    with forked.start(words, env=environment, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        output = b""
        # The end of a terminal is an error on Linux.
        with contextlib.suppress(OSError):
            while block := os.read(handle, 65536):
                output += block
        os.close(handle)
    assert process.returncode == 0, output
    return output.decode().replace("\r\n", "\n")


SHOW = """
from tests.experiments.test_demo_tables import tables
from lmc_fast.experiments.demo_tables import show
for table in tables(): show(table)
"""


def test_a_narrow_terminal_shows_every_number_in_its_width(folder: Path) -> None:
    shown = on_a_terminal(40, ["-c", SHOW])
    lines = shown.splitlines()
    assert max(map(len, lines[1:])) <= 40 or [line for line in lines if len(line) > 40 and "  " in line] == []
    for number in ("12.50", "-20%", "0.250", "98.4%", "1.750", "sinkhorn"):
        assert number in shown
    assert "…" not in shown and "\x1b[3" not in shown.replace("\x1b[3m", "")
    plain = on_a_terminal(40, ["-m", "lmc_fast", *ANALYZE])
    assert "R(0.3) after" in plain and max(len(line) for line in plain.splitlines()[3:]) <= 40


def test_a_wide_terminal_and_a_file_get_the_whole_table(folder: Path) -> None:
    wide = on_a_terminal(100, ["-c", SHOW])
    done = forked.run(["-c", SHOW], env={**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "40"})
    for text in (wide, done.stdout):
        assert "L2 distance" in text and "…" not in text
        assert any(
            line.split() == ["mlp", "0.500", "0.500", "1.000", "0.750", "0.500", "12.50", "0.25"]
            for line in text.splitlines()
        )
