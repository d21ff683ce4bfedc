"""A forked process ends, hears and says as one that was started does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from . import forked
from .forked import PARTS

ENDS: dict[str, str] = {
    "with a code": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
    "with nothing": "print('out', end='')",
    "with a sentence": "raise SystemExit('a sentence')",
    "by a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "by Ctrl-C": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "at once": "import atexit, os; atexit.register(print, 'lost'); os._exit(5)",
    "by what is left to the end": "import atexit; atexit.register(print, 'last'); 1 / 0",
}


def started(words: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_it_ends_as_one_that_is_started(code: str) -> None:
    expected, found = started(["-c", code]), forked.run(["-c", code])
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    # A traceback has more lines.
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_what_takes_long_is_there_already() -> None:
    told = forked.run(["-c", "import sys; print([name for name in sys.argv[1:] if name not in sys.modules])", *PARTS])
    assert told.stdout == "[]\n" and {"torch", "lmc_fast.cli.main"} <= set(PARTS)


def test_words_folder_environment_and_pipes_are_its_own(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['FOR_IT'], sys.stdin.read(), __name__)"
    options = {"cwd": tmp_path, "env": {**os.environ, "FOR_IT": "here"}}
    words = ["-c", code, "--first", "second"]
    expected = started(words, input="typed", **options)
    with forked.start(words, stdin=forked.PIPE, stdout=forked.PIPE, **options) as process:  # type: ignore[arg-type]
        said, _ = process.communicate("typed", 30)
    assert process.returncode == 0 and said == expected.stdout
    assert "FOR_IT" not in os.environ


@pytest.mark.parametrize("words", [["script.py", "word"], ["-m", "script", "word"]], ids=["a file", "a module"])
def test_files_and_modules_are_the_main_one(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "script.py").write_text("import sys; print(__name__, __file__, sys.argv[1:])\n")
    words = [word.replace("script.py", str(tmp_path / "script.py")) for word in words]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    assert forked.run(words, **options).stdout == started(words, **options).stdout != ""


def test_it_is_killed_where_a_test_fails_or_waits_too_long() -> None:
    words = ["-c", "import time; time.sleep(60)"]
    with pytest.raises(ValueError, match="in between"), forked.start(words) as process:
        assert process.poll() is None
        raise ValueError("in between")
    assert process.returncode == -signal.SIGKILL
    with forked.start(words, stdout=forked.PIPE) as process:
        assert process.communicate(timeout=0.01) == ("", "")
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_what_is_raised_as_a_forked_process_ends_goes_no_further() -> None:
    with forked.ends_here():
        process = os.fork()
        if process == 0:
            raise SystemExit(3)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
