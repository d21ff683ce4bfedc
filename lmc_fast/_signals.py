"""How the command ends when it is told to stop: at once, in one sentence, and with nothing left behind.

Only the command listens; a program that imports the package keeps its own ways. While the command is still being
imported nothing has been written, and it ends then and there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ._files import remove_unfinished

__all__ = ["Stopped", "explain", "interrupt", "listen", "stop_of", "tell"]

WORDS = {
    getattr(signal, name): words
    for name, words in (
        ("SIGINT", "interrupted"),
        ("SIGTERM", "terminated"),
        ("SIGHUP", "ended with its terminal"),
    )
    if hasattr(signal, name)
}
# Seconds that the work at hand has for letting go; what does not hear of it in that time is left where it is.
GRACE = 2.0

_told = False
# Whoever says why the process ends is let finish; a signal may come to the one who does.
_saying = threading.RLock()
# Why the work at hand is to end, and the exit code of that, where a signal is not all there is to it.
_why: tuple[str, int] | None = None


class Stopped(KeyboardInterrupt):
    """The command is to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(WORDS[number])
        self.number = number


def stop_of(error: BaseException) -> int:
    """The signal behind an interrupt."""
    for cause in (error, error.__cause__):
        if isinstance(cause, Stopped):
            return cause.number
    return signal.SIGINT


def tell(number: int, hint: str = "") -> int:
    """Say on stderr that the command was stopped; return the exit code of that."""
    global _told
    # The terminal may be what has gone.
    with _saying, suppress(OSError, ValueError):
        _told = True
        print(f"lmc-fast: {WORDS[number]}{hint}", file=sys.stderr, flush=True)
    return 128 + number


def explain(sentence: str, code: int) -> None:
    """Have an end that the work does not hear of in time be told in this sentence, and with this exit code."""
    global _why
    _why = sentence, code


def interrupt() -> None:
    """Have the main thread stop what it does: `KeyboardInterrupt` is raised there. Not where no signal is listened to.

    A core that works on asks for signals, and for nothing else.
    """
    for number in WORDS:
        if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL, None):
            interrupt_main(number)
            return


def listen() -> None:
    """From now on a signal to stop raises `Stopped`, and ends the process where that is not heard soon."""
    global _told, _why
    # Of a command that this process, or the one that it was forked from, has run before.
    _told, _why = False, None
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        return
    heard, said = os.pipe()
    os.set_blocking(said, False)
    for number in WORDS:
        # Ignored on purpose: by nohup, or by a shell for what runs in its background.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _raise)
    signal.set_wakeup_fd(said, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), daemon=True, name="lmc_fast signals").start()
    os.register_at_fork(after_in_child=_forget)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    for other in WORDS:
        # A second one must not break into the cleaning up.
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def _watch(heard: int) -> None:
    """Wait for a signal, which the interpreter itself hears only between two steps of Python."""
    while True:
        for number in os.read(heard, 64):
            if number in WORDS:
                time.sleep(GRACE)
                remove_unfinished()
                os._exit(_last_words(number))


def _last_words(number: int) -> int:
    """Say why the process ends, if that has not been said; the exit code."""
    with _saying:
        if _why is None:
            return 128 + number if _told else tell(number)
        sentence, code = _why
        if not _told:
            with suppress(OSError, ValueError):
                print(f"lmc-fast: {sentence}", file=sys.stderr, flush=True)
        return code


def _forget() -> None:
    """A forked process hears for itself, and ends without a word."""
    signal.set_wakeup_fd(-1)
    for number in WORDS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(tell(number))


def _is_command() -> bool:
    """Whether this process is the command, and not a program that imports the package or a worker of one."""
    words = sys.orig_argv
    if "-c" in words or threading.current_thread() is not threading.main_thread():
        return False
    module = sys.argv[:1] == ["-m"] and ("-mlmc_fast" in words or ("-m", "lmc_fast") in pairwise(words))
    return module or (bool(sys.argv) and Path(sys.argv[0]).name in ("lmc-fast", "lmc-fast.exe", "lmc-fast-script.py"))


if _is_command():
    for _number in WORDS:
        if signal.getsignal(_number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(_number, _end)
