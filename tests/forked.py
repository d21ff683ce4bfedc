"""Processes as `subprocess` makes them, forked from one that has imported torch and this package before.

To import them takes two seconds of each process. What a test wants to see of one is its own all the same: signals, exit
codes, pipes, files, the environment, how it ends. Only what Python itself looks at as it starts is not (encodings, a
closed stdout): that is for `subprocess`, as are systems without these sockets.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.context
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import popen_fork
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["PIPE", "Process", "ends_here", "fork_context", "run", "stand_in", "start"]

PIPE = subprocess.PIPE
ROOT = Path(__file__).parents[1]
# What processes of tests need between them; to import it all takes three seconds.
PARTS = (
    *("torch", "click", "rich.progress", "safetensors.torch", "matplotlib.figure", "sklearn.datasets"),
    *("lmc_fast.cli.main", "lmc_fast.checkpoints.aligned", "lmc_fast.matching", "lmc_fast.large.reports"),
    *("lmc_fast.experiments.analyze", "lmc_fast.experiments.demo_tables", "lmc_fast.experiments.paper.terminal"),
)
# Which tests put others in the place of.
_plain_run = subprocess.run
LARGEST = 1 << 18


@contextlib.contextmanager
def ends_here() -> Iterator[None]:
    """A process that is forked inside does not go on behind it as the one that it was forked from, whatever is raised
    as it ends: by a signal, say, while what it leaves is written."""
    here = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)


def fork_context(monkeypatch: pytest.MonkeyPatch) -> multiprocessing.context.BaseContext:
    """What multiprocessing forks workers by, none of which goes on as this process."""
    plain = popen_fork.Popen._launch

    def launch(self: popen_fork.Popen, process: Any) -> None:
        with ends_here():
            plain(self, process)

    monkeypatch.setattr(popen_fork.Popen, "_launch", launch)
    return multiprocessing.get_context("fork")


class Process:
    """As much of `subprocess.Popen` as tests need, with text in its pipes."""

    def __init__(self, pid: int, stdin: IO[str] | None, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.returncode: int | None = None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()
        self.wait()

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        if self.returncode is None:
            pid, status = _asked({"wait": self.pid})
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """What is still said on stdout and stderr; a process that takes longer than `timeout` seconds is killed."""
        if self.stdin is not None:
            self.stdin.write(input or "")
            self.stdin.close()
        said = {}

        def read(name: str, pipe: IO[str] | None) -> None:
            said[name] = "" if pipe is None or pipe.closed else pipe.read()

        watch = threading.Timer(timeout or 600, self.kill)
        reader = threading.Thread(target=read, args=("stderr", self.stderr))
        watch.start()
        reader.start()
        read("stdout", self.stdout)
        reader.join()
        self.wait()
        watch.cancel()
        return said["stdout"], said["stderr"]


def start(
    words: Sequence[str],
    *,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
) -> Process | subprocess.Popen[str]:
    """Start Python with these words behind its name: -c and code, -m and a module, or a file; and arguments."""
    if not hasattr(socket, "SOCK_SEQPACKET") or sys.platform != "linux":
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
        )
    theirs, ours = [], []
    for place, asked in enumerate((stdin, stdout, stderr)):
        pipe: IO[str] | None = None
        if asked == PIPE:
            reading, writing = os.pipe()
            theirs.append(writing if place else reading)
            pipe = os.fdopen(reading) if place else os.fdopen(writing, "w")
        else:
            theirs.append(os.dup(place if asked is None else asked if isinstance(asked, int) else asked.fileno()))
        ours.append(pipe)
    request = {
        "words": list(words),
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
        "session": start_new_session,
    }
    (pid,) = _asked(request, theirs)
    for handle in theirs:
        os.close(handle)
    return Process(pid, *ours)


def run(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what is not given for stdout and stderr is held."""
    with start(words, **{"stdout": PIPE, "stderr": PIPE, **options}) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(list(words), process.wait(), stdout, stderr)


def stand_in(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """In place of `subprocess.run` where what Python's processes say is held; others start as they always do."""
    if command[0] != sys.executable:
        return _plain_run(command, **options)
    return run(command[1:], **{name: value for name, value in options.items() if name in ("cwd", "env")})


@cache
def _server() -> socket.socket:
    """A line to the process that forks; it ends with this one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (here, there):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(there.fileno())],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        pass_fds=[there.fileno()],
        start_new_session=True,
    )
    there.close()
    return here


_asking = threading.Lock()


def _asked(request: dict[str, Any], handles: Sequence[int] = ()) -> list[int]:
    message = json.dumps(request).encode()
    with _asking:
        socket.send_fds(_server(), [message], handles)
        return list(json.loads(_server().recv(LARGEST)))


def _serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for every request; None where there are no more, and in a forked process what it is to do."""
    while True:
        message, handles, *_ = socket.recv_fds(line, LARGEST, 3)
        if not message:
            return None
        request = json.loads(message)
        if "wait" in request:
            answer = list(os.waitpid(request["wait"], os.WNOHANG))
        else:
            pid = os.fork()
            if pid == 0:
                line.close()
                for place, handle in enumerate(handles):
                    os.dup2(handle, place)
                    os.close(handle)
                return dict(request)
            for handle in handles:
                os.close(handle)
            answer = [pid]
        line.send(json.dumps(answer).encode())


def _become(request: dict[str, Any]) -> None:
    """Do what Python does when it starts with these words."""
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    how, *rest = words = request["words"]
    sys.orig_argv = [sys.executable, *words]
    sys.argv = words if how not in ("-c", "-m") else [how, *rest[1:]]
    first = {"-c": "", "-m": request["cwd"]}.get(how, str(Path(how).parent))
    sys.path[0:1] = [first, *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))]
    if how == "-m":
        import runpy

        # As a package's __main__ runs: what it imports is there.
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = ModuleType("__main__")
    code, name = (rest[0], "<string>") if how == "-c" else (Path(how).read_text(encoding="utf-8"), how)
    if how != "-c":
        main.__file__ = how
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), main.__dict__)


if __name__ == "__main__":
    import gc
    import importlib

    # The package imports its parts when they are asked for, and torch with the first of them. What is not installed is
    # asked for by the process that needs it.
    for part in PARTS:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(part)

    # What is here stays, and is not looked through by every process as it ends.
    gc.collect()
    gc.freeze()
    kept = sys.modules["__main__"]
    if (request := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(request)
