"""How an attempt ended: the decision alone, without a worker."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from dramatiq import Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Shutdown, TimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime import JobCancelled, PermanentError, RetryLater, Snooze
from actors.runtime.current import Attempt
from actors.runtime.outcomes import (
    LINE_LENGTH,
    MAX_BACKOFF_MS,
    MESSAGE_LENGTH,
    RATE_LIMIT_MS,
    TRACEBACK_LENGTH,
    Complete,
    Fail,
    GiveBack,
    decide,
    error_entry,
    failure,
)


class Broken(Exception):
    """An ordinary failure."""


def attempt(number: int = 1, *, retry_delay_ms: int | None = None, lost: bool = False, **options: Any) -> Attempt:
    return Attempt(
        id=uuid4(),
        token=uuid4(),
        number=number,
        tenant_id="default",
        actor="act",
        options=options,
        worker_id=uuid4(),
        started_at=datetime.now(UTC),
        retry_delay_ms=retry_delay_ms,
        lost=lost,
    )


def message(*, failed: bool = False) -> MessageProxy:
    proxy = MessageProxy(Message(queue_name="default", actor_name="act", args=(), kwargs={}, options={}))
    if failed:
        proxy.fail()
    return proxy


def ended(exception: BaseException, *, failed: bool = False, **about: Any) -> Any:
    return decide(attempt(**about), message(failed=failed), None, exception)


def test_a_result_is_kept_as_json() -> None:
    assert decide(attempt(), message(), {"a": [1, None]}, None) == Complete('{"a":[1,null]}', None)


@pytest.mark.parametrize("result", [{1, 2}, float("nan"), "\ud800", b"bytes", object(), {"a": float("inf")}])
def test_a_result_that_cannot_be_kept_is_still_a_success(result: Any) -> None:
    outcome = decide(attempt(), message(), result, None)
    assert isinstance(outcome, Complete)
    assert outcome.result is None
    assert outcome.result_error


def test_a_message_that_failed_without_an_exception_is_no_success() -> None:
    outcome = decide(attempt(), message(failed=True), "a result", None)
    assert isinstance(outcome, Fail)
    assert outcome.outcome == "fail"


def test_an_error_is_a_retry_only_when_retries_asked_for_one() -> None:
    assert ended(Broken("no")).outcome == "fail"
    wanted = ended(Broken("no"), retry_delay_ms=1_500)
    assert (wanted.outcome, wanted.delay_ms, wanted.error) == ("retry", 1_500, "Broken: no")
    assert ended(Broken("no"), retry_delay_ms=0).outcome == "retry"


def test_a_failed_message_is_not_retried_whatever_was_asked_before() -> None:
    assert ended(PermanentError("never"), retry_delay_ms=5, failed=True).outcome == "fail"


def test_a_time_limit_is_a_failure_like_any_other() -> None:
    outcome = ended(TimeLimitExceeded(), retry_delay_ms=10)
    assert (outcome.outcome, outcome.error) == ("retry", "TimeLimitExceeded")


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_fixed_backoff_stays_and_an_exponential_one_doubles(number: int) -> None:
    asked = {"number": number, "retry_delay_ms": 1}
    assert ended(Broken(), **asked, backoff={"type": "fixed", "delay": 300}).delay_ms == 300
    grown = ended(Broken(), **asked, backoff={"type": "exponential", "delay": 300}).delay_ms
    least = 300 * 2 ** (number - 1)
    assert least <= grown <= 2 * least


def test_no_exponential_backoff_is_longer_than_a_week() -> None:
    outcome = ended(Broken(), number=60, retry_delay_ms=1, backoff={"type": "exponential", "delay": 1_000})
    assert MAX_BACKOFF_MS / 2 <= outcome.delay_ms <= MAX_BACKOFF_MS


@pytest.mark.parametrize("exception", [Retry("later", delay=900), RetryLater("later", delay=900)])
def test_a_delay_that_the_exception_names_wins(exception: Retry) -> None:
    outcome = ended(exception, retry_delay_ms=900, backoff={"type": "fixed", "delay": 5})
    assert (outcome.outcome, outcome.delay_ms) == ("retry", 900)


def test_a_retry_without_a_delay_waits_for_the_senders_backoff() -> None:
    assert ended(Retry("later"), retry_delay_ms=900, backoff={"type": "fixed", "delay": 5}).delay_ms == 5


def test_a_cancel_is_one_unless_the_lease_was_lost() -> None:
    assert ended(JobCancelled()).outcome == "cancel"
    assert ended(JobCancelled(), lost=True).outcome == "retry"


def test_a_shutdown_gives_the_attempt_back_at_once() -> None:
    outcome = ended(Shutdown())
    assert isinstance(outcome, GiveBack)
    assert outcome.delay_ms == 0
    assert outcome.entry is not None
    assert json.loads(outcome.entry)["kind"] == "released"


def test_a_rate_limit_gives_the_attempt_back_for_a_while() -> None:
    outcome = ended(RateLimitExceeded("busy"))
    assert isinstance(outcome, GiveBack)
    assert RATE_LIMIT_MS <= outcome.delay_ms <= 2 * RATE_LIMIT_MS


@pytest.mark.parametrize(("asked", "waits"), [(0, 0), (2_500, 2_500), (-5, 0)])
def test_a_snooze_leaves_no_trace_and_lasts_as_long_as_it_says(asked: int, waits: int) -> None:
    assert ended(Snooze(asked)) == GiveBack(waits, None)


def test_an_entry_names_the_attempt_the_error_and_the_worker() -> None:
    about = attempt(3)
    try:
        raise Broken("what\nand why")
    except Broken as error:
        entry = json.loads(error_entry(about, "failed", error))
        line = failure(about, "fail", "failed", error).error
    assert entry.pop("traceback").rstrip().endswith("Broken: what\nand why")
    assert entry.pop("started_at") <= entry.pop("ended_at")
    assert entry == {
        "attempt": 3,
        "kind": "failed",
        "class": "Broken",
        "message": "what\nand why",
        "worker": str(about.worker_id),
    }
    assert line == "Broken: what"


def test_a_long_traceback_keeps_its_end() -> None:
    def down(levels: int) -> None:
        if not levels:
            raise Broken("at the bottom " + "x" * 200)
        down(levels - 1)

    try:
        down(500)
    except Broken as error:
        trace = json.loads(error_entry(attempt(), "failed", error))["traceback"]
    assert len(trace) <= TRACEBACK_LENGTH
    assert "at the bottom" in trace


class Unspeakable(Exception):
    """Has no text."""

    def __init__(self, trouble: Any) -> None:
        self.trouble = trouble

    def __str__(self) -> str:
        if isinstance(self.trouble, BaseException):
            raise self.trouble
        return self.trouble

    __repr__ = __str__


@pytest.mark.parametrize("trouble", [ValueError("inner"), RecursionError(), MemoryError(), 5, None], ids=repr)
def test_an_exception_that_cannot_be_told_still_has_an_entry(trouble: Any) -> None:
    outcome = ended(Unspeakable(trouble))
    assert outcome.error.startswith("Unspeakable")
    assert json.loads(outcome.entry)["class"] == "Unspeakable"


def test_an_exception_whose_text_would_end_the_thread_still_has_an_entry() -> None:
    outcome = None
    try:
        outcome = ended(Unspeakable(SystemExit(1)))
    except SystemExit:
        pass
    assert outcome is not None, "it left decide(): the worker's thread would end, and the job stay RUNNING"
    assert outcome.error.startswith("Unspeakable")


def test_exceptions_that_refer_to_each_other_still_have_an_entry() -> None:
    first, second = Broken("first"), Broken("second")
    first.__cause__, second.__cause__ = second, first
    group: Any = ExceptionGroup("many", [ValueError(n) for n in range(5_000)])
    for error in (first, group):
        assert json.loads(ended(error).entry)["message"]


@given(text=st.text(alphabet=st.characters(), max_size=200), repeat=st.sampled_from([1, 1_000]))
def test_an_entry_of_any_text_is_json_that_postgres_takes(text: str, repeat: int) -> None:
    outcome = ended(Broken(text * repeat))
    raw = outcome.entry
    raw.encode()
    entry = json.loads(raw)
    assert "\\u0000" not in raw or "\0" not in entry["message"] + entry["traceback"]
    assert len(entry["message"]) <= MESSAGE_LENGTH
    assert len(entry["traceback"]) <= TRACEBACK_LENGTH
    assert len(outcome.error) <= LINE_LENGTH
    assert "\n" not in outcome.error
    for kept in (entry["message"], entry["traceback"], outcome.error):
        assert "\0" not in kept
        assert not any("\ud800" <= character <= "\udfff" for character in kept)
