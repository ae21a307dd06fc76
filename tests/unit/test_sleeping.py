"""The ``sleep`` job type."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from actors.runtime.errors import JobCancelled
from actors.sleeping import SleepPayload, doze, sleep

pytestmark = pytest.mark.unit


class Clock:
    """Time that passes only while somebody waits, a little more than asked for."""

    def __init__(self, cancel_at: float = float("inf")) -> None:
        self.now = 1000.0
        self.reports: list[tuple[float, int, int]] = []
        self.cancel_at = 1000.0 + cancel_at

    def wait(self, seconds: float) -> None:
        self.now += seconds + 0.001
        if self.now >= self.cancel_at:
            raise JobCancelled

    def report(self, current: int, total: int, _: str) -> None:
        self.reports.append((self.now, current, total))

    def doze(self, delay_ms: int) -> dict[str, int]:
        return doze(delay_ms, wait=self.wait, report=self.report, clock=lambda: self.now)


@pytest.mark.parametrize("delay_ms", [0, 1, 300, 500, 2000, 60_000])
def test_sleeps_as_long_as_asked(delay_ms: int) -> None:
    clock = Clock()
    assert clock.doze(delay_ms) == {"slept_ms": delay_ms}
    assert delay_ms / 1000 <= clock.now - 1000 <= delay_ms / 1000 + 0.2


def test_reports_progress_at_most_four_times_a_second() -> None:
    clock = Clock()
    clock.doze(5000)
    moments = [moment for moment, _, _ in clock.reports]
    assert len(moments) == 9
    assert all(later - earlier >= 0.25 for earlier, later in pairwise(moments))
    assert all(current < total == 5000 for _, current, total in clock.reports)
    short = Clock()
    short.doze(400)
    assert short.reports == []


def test_a_cancel_ends_it() -> None:
    clock = Clock(cancel_at=1.2)
    with pytest.raises(JobCancelled):
        clock.doze(40_000)
    assert clock.now - 1000 < 2


def test_the_actor_carries_the_contracts_name() -> None:
    assert sleep.actor_name == "sleep"


@pytest.mark.parametrize("payload", [{"delayMs": 0}, {"delay_ms": 60_000}])
def test_payloads(payload: dict[str, Any]) -> None:
    parsed = SleepPayload.model_validate(payload)
    assert parsed.model_dump(by_alias=True) == {"delayMs": parsed.delay_ms}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"delayMs": -1},
        {"delayMs": 60_001},
        {"delayMs": True},
        {"delayMs": "5"},
        {"delayMs": 5.0},
        {"delayMs": None},
        {"delayMs": 10**5000},
        {"delayMs": 5, "more": 1},
    ],
    ids=range(9),
)
def test_payloads_that_are_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SleepPayload.model_validate(payload)
