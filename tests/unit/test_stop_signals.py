"""A stop is noted before anything else, and is asked once however often it arrives."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from actors.runtime import stop_signals
from actors.runtime.stop_signals import SIGNALS, StopSignals


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """What was called, in order; the handlers that stood there before stand there again afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    calls: list[Any] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: calls.append(signal.Signals(number)))
    StopSignals(lambda: calls.append("asked")).install()
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("second", SIGNALS)
def test_one_wish_that_arrives_twice_is_passed_on_once(heard: list[Any], second: signal.Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(second)
    assert heard == ["asked", signal.SIGTERM]


def test_impatience_is_passed_on(heard: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(stop_signals, "SAME_WISH_S", 0.0)
    signal.raise_signal(signal.SIGTERM)
    assert heard == ["asked", signal.SIGTERM, signal.SIGTERM]


def test_where_nobody_listens_the_signal_does_what_it_did() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopSignals(lambda: None)
        stop.install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
