"""Send options: what a sender may ask for, and what is refused before anything is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from actors.runtime.options import MAX_DELAY_MS, OURS, SendOptions, check_backoff, take_options
from models.errors import OptionRefused

NOTHING = SendOptions(None, None, None, None, None, None, None, None)
LATER = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))


def test_without_options_nothing_is_asked_for() -> None:
    assert take_options({}) == NOTHING


def test_ours_are_taken_out_and_dramatiqs_stay() -> None:
    options: dict[str, Any] = {"delay": 5, "priority": 1, "max_retries": 3, "pipe_ignore": True, "tenant_id": None}
    take_options(options)
    assert options == {"max_retries": 3, "pipe_ignore": True}


def test_every_option_of_ours_is_a_column_and_never_reaches_the_message() -> None:
    options: dict[str, Any] = dict.fromkeys(OURS)
    assert take_options(options) == NOTHING
    assert options == {}


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        (0, 0),
        (1500, 1500),
        (0.5, 0.5),
        (timedelta(seconds=2), 2000),
        (timedelta(microseconds=1), 0.001),
        (MAX_DELAY_MS, MAX_DELAY_MS),
        (timedelta(days=36_500), MAX_DELAY_MS),
    ],
)
def test_a_delay_is_milliseconds_or_a_timedelta(given: object, ms: float) -> None:
    assert take_options({"delay": given}).delay_ms == ms


def test_run_at_is_kept_in_utc() -> None:
    run_at = take_options({"run_at": LATER}).run_at
    assert run_at == LATER
    assert run_at is not None
    assert run_at.tzinfo is UTC


@pytest.mark.parametrize("priority", [-10, 0, 10])
def test_priorities_run_from_minus_ten_to_ten(priority: int) -> None:
    assert take_options({"priority": priority}).priority == priority


def test_a_key_lives_as_long_as_its_job_unless_said_otherwise() -> None:
    assert take_options({"unique_key": "k"})[4:7] == ("k", "live", None)
    assert take_options({"unique_key": "k", "unique_scope": "waiting"})[4:7] == ("k", "waiting", None)
    period = {"unique_key": "k" * 255, "unique_scope": "period", "unique_for": timedelta(minutes=1)}
    assert take_options(period)[4:7] == ("k" * 255, "period", 60_000)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": MAX_DELAY_MS + 1}, "delay"),
        ({"delay": timedelta.max}, "delay"),
        ({"delay": timedelta(seconds=-1)}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": float("inf")}, "delay"),
        ({"delay": 10**400}, "delay"),
        ({"delay": "5"}, "delay"),
        ({"delay": True}, "delay"),
        ({"run_at": datetime(2026, 7, 1)}, "run_at"),  # noqa: DTZ001 - the point of it
        ({"run_at": "2026-07-01T00:00:00Z"}, "run_at"),
        ({"run_at": 1_790_000_000}, "run_at"),
        ({"run_at": LATER, "delay": 5}, "run_at"),
        ({"priority": -11}, "priority"),
        ({"priority": 11}, "priority"),
        ({"priority": 1.0}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"priority": False}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1001}, "max_attempts"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "k" * 256}, "unique_key"),
        ({"unique_key": 7}, "unique_key"),
        ({"unique_key": "a\0b"}, "unique_key"),
        ({"unique_key": "a\ud800"}, "unique_key"),
        ({"unique_key": "k", "unique_scope": "always"}, "unique_scope"),
        ({"unique_key": "k", "unique_scope": ["live"]}, "unique_scope"),
        ({"unique_scope": "live"}, "unique_scope"),
        ({"unique_key": "k", "unique_scope": "period"}, "unique_for"),
        ({"unique_key": "k", "unique_for": 5}, "unique_for"),
        ({"unique_key": "k", "unique_scope": "period", "unique_for": -5}, "unique_for"),
        ({"tenant_id": ""}, "tenant_id"),
        ({"tenant_id": "t" * 101}, "tenant_id"),
        ({"tenant_id": 1}, "tenant_id"),
        ({"backoff": 5}, "backoff"),
        ({"backoff": {"type": "exponential"}}, "backoff"),
        ({"backoff": {"type": "linear", "delay": 1}}, "backoff"),
        ({"backoff": {"type": "fixed", "delay": -1}}, "backoff"),
        ({"backoff": {"type": "fixed", "delay": float("nan")}}, "backoff"),
        ({"backoff": {"type": "fixed", "delay": "1s"}}, "backoff"),
        ({"backoff": {"type": "fixed", "delay": 1, "jitter": 2}}, "backoff"),
    ],
    ids=repr,
)
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        take_options(options)
    assert caught.value.option == option
    assert str(caught.value).startswith(f"{option}: ")
    assert str(caught.value).endswith("; nothing was stored")


@pytest.mark.parametrize(
    "run_at",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
    ids=["far future", "far past"],
)
def test_a_time_that_utc_cannot_hold_is_refused(run_at: datetime) -> None:
    with pytest.raises(OptionRefused, match="run_at"):
        take_options({"run_at": run_at})


@pytest.mark.parametrize("kind", ["exponential", "fixed"])
def test_a_backoff_stays_among_the_messages_options(kind: str) -> None:
    options: dict[str, Any] = {"backoff": {"type": kind, "delay": 250}}
    take_options(options)
    assert options == {"backoff": {"type": kind, "delay": 250}}


def test_no_backoff_leaves_no_trace() -> None:
    options: dict[str, Any] = {"backoff": None}
    take_options(options)
    assert options == {}
    assert check_backoff(None) is None
