"""What a launcher tells a process, and ends that are explained."""

from __future__ import annotations

import signal
import time

import pytest

from lmc_fast import _signals
from lmc_fast._backend import Launch, launch
from lmc_fast.large.joining import is_first_rank

TOLD = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
MORE = {
    **TOLD,
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "4",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MORE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "4"}, None),
        ({**TOLD, "RANK": "0", "WORLD_SIZE": "1"}, None),
        (TOLD, Launch(3, 8, 3, 8, "host", 29500, 0, False)),
        (MORE, Launch(3, 8, 1, 2, "host", 29500, 4, True)),
    ],
    ids=["nothing", "no place to meet", "one", "by hand", "torchrun"],
)
def test_several_are_known_by_their_environment(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], found: Launch | None
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert launch() == found
    assert is_first_rank() == (found is None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "x", "RANK in the environment must be a number, got 'x'"),
        ("RANK", "8", "RANK in the environment must be below WORLD_SIZE, 8, got 8"),
        ("MASTER_PORT", "-1", "MASTER_PORT in the environment must be a number, got '-1'"),
    ],
)
def test_words_that_will_not_do_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    for other, plain in TOLD.items():
        monkeypatch.setenv(other, plain)
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        launch()


def test_an_interrupt_comes_by_a_signal_that_is_heard() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            _signals.interrupt()
            time.sleep(1)
        # By none: it goes on.
        for number in _signals.WORDS:
            signal.signal(number, signal.SIG_IGN)
        _signals.interrupt()
        time.sleep(0.01)
    finally:
        for number in _signals.WORDS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_an_end_is_told_once_in_the_words_that_explain_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_signals, "_told", False)
    monkeypatch.setattr(_signals, "_why", None)
    _signals.explain("rank 1 has died", 2)
    assert _signals._last_words(signal.SIGINT) == 2
    assert capsys.readouterr().err == "lmc-fast: rank 1 has died\n"
    monkeypatch.setattr(_signals, "_why", None)
    assert _signals._last_words(signal.SIGTERM) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "lmc-fast: terminated\n"
    # It has been told.
    assert _signals._last_words(signal.SIGTERM) == 128 + signal.SIGTERM
    _signals.explain("rank 1 has died", 2)
    assert _signals._last_words(signal.SIGTERM) == 2
    assert capsys.readouterr().err == ""
