"""Whether all ranks live, and the one reason why a run ends."""

from __future__ import annotations

import errno
import json
import threading
import time
from typing import Any

import pytest

from lmc_fast._files import this_process
from lmc_fast._signals import Stopped
from lmc_fast.large import pulse as pulses
from lmc_fast.large.faults import died, error_of, fault_of, sentence_of
from lmc_fast.large.pulse import Pulse


class Store:
    """What all ranks can reach, in one process; gone where `gone` is set."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.gone = False

    def check(self, keys: list[str]) -> bool:
        if self.gone:
            raise RuntimeError("Broken pipe")
        return all(key in self.held for key in keys)

    def set(self, key: str, value: str) -> None:
        self.held[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.held[key]

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        return self.held.setdefault(key, value.encode())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def who(machine: str, process: int = 1, *, apart: bool = False) -> dict[str, Any]:
    return {"machine": machine, "process": process, "started": "1", "host": f"host {machine}", "apart": apart}


HERE = this_process()[0]
NOBODY = 2**22 + 1


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once() -> None:
    store = Store()
    pulse = Pulse(store, 0, [who(HERE), who(HERE, NOBODY), who("elsewhere")], is_main=False)
    fault = pulse.look()
    assert fault == died(1, 3, f"process {NOBODY} on host {HERE}")
    assert json.loads(store.held["failed"]) == fault
    # One that has left has done its work.
    del store.held["failed"]
    store.set("left/1", "")
    assert pulse.look() is None


def test_a_rank_elsewhere_that_is_silent_is_dead() -> None:
    store, clock = Store(), Clock()
    pulse = Pulse(store, 1, [who("x"), who("y"), who("z")], is_main=False, clock=clock)
    for second in range(100):
        clock.now = float(second)
        if second < 50:
            store.set("beat/2", str(second // 2))
        fault = pulse.look()
        if fault is not None:
            break
    assert fault == died(2, 3, "process 1 on host z")
    assert 49 + pulses.SILENCE - 2 < clock.now < 49 + pulses.SILENCE + 2
    # It was heard itself.
    assert int(store.held["beat/1"]) > 20


def test_what_was_said_first_is_the_reason() -> None:
    store = Store()
    first, second = (Pulse(store, rank, [who("x"), who("x")], is_main=False) for rank in (0, 1))
    fault = fault_of(ValueError("of the first"), 0)
    assert first.publish(fault) == fault
    assert second.publish(fault_of(ValueError("of the second"), 1)) == fault
    assert second.look() == fault


@pytest.mark.parametrize("apart", [False, True])
def test_a_store_that_is_gone_was_the_launchers_or_the_first_ranks(apart: bool) -> None:
    store = Store()
    store.gone = True
    pulse = Pulse(store, 1, [who("x", apart=apart), who("y", apart=apart)], is_main=False)
    fault = pulse.look()
    assert fault is not None
    assert ("the launcher's store has gone" if apart else "rank 0 of 2 (process 1 on host x) has died") in fault["text"]


def test_a_first_rank_that_is_dead_is_not_asked() -> None:
    store = Store()
    store.gone = True
    fault = Pulse(store, 1, [who(HERE, NOBODY), who(HERE)], is_main=False).look()
    assert fault == died(0, 2, f"process {NOBODY} on host {HERE}")


def test_the_main_thread_is_interrupted_where_it_does_not_come_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(pulses, "explain", lambda *words: told.append(words))
    monkeypatch.setattr(pulses, "LOOK", 0.01)
    store = Store()
    store.set("failed", json.dumps(fault_of(ValueError("no good"), 0)))
    pulse = Pulse(store, 1, [who("x"), who("x")], is_main=True)
    pulse.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):
            time.sleep(0.01)
    assert pulse.fault == {"kind": "ValueError", "text": "no good"}
    assert told == [("no good", 2)]


def test_nothing_is_interrupted_after_the_end() -> None:
    store = Store()
    pulse = Pulse(store, 1, [who("x"), who("x")], is_main=True)
    pulse.stop()
    store.set("failed", json.dumps(fault_of(ValueError("no good"), 0)))
    pulse.start()
    pulse.join(5)
    assert not pulse.is_alive()
    assert pulse.fault is None
    assert threading.current_thread() is threading.main_thread()


ERRORS: dict[str, tuple[BaseException, type[BaseException], str, int]] = {
    "bad input": (ValueError("x must\n be y"), ValueError, "x must be y", 2),
    "of a kind of its own": (json.JSONDecodeError("no", "{", 1), ValueError, "no: line 1 column 2 (char 1)", 2),
    "no text": (UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), ValueError, "'utf-8' codec can't decode", 2),
    "no file": (FileNotFoundError("no model"), FileNotFoundError, "no model", 2),
    "a full disk": (OSError(errno.ENOSPC, "No space left", "out"), OSError, "'out': No space left", 2),
    "a disk": (OSError(errno.EIO, "Input/output error"), OSError, "[Errno 5] Input/output error", 2),
    "a missing package": (ModuleNotFoundError("no x"), ImportError, "no x", 2),
    "a signal": (Stopped(15), Stopped, "terminated", 143),
    "a key": (KeyboardInterrupt(), Stopped, "interrupted", 130),
    "a fault of the program": (KeyError("x"), RuntimeError, "rank 3 failed: KeyError: 'x'", 1),
}


@pytest.mark.parametrize(("error", "kind", "sentence", "code"), ERRORS.values(), ids=ERRORS.keys())
def test_all_ranks_raise_what_one_met_with(
    error: BaseException, kind: type[BaseException], sentence: str, code: int
) -> None:
    fault = json.loads(json.dumps(fault_of(error, 3)))
    again = error_of(fault)
    assert isinstance(again, kind)
    assert sentence_of(fault)[0].startswith(sentence)
    assert sentence_of(fault)[1] == code
    if isinstance(error, OSError) and isinstance(again, OSError):
        assert (again.errno, again.strerror, again.filename) == (error.errno, error.strerror, error.filename)
