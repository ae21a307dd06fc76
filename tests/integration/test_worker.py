"""How attempts end: a worker in this process, real servers, and what the row says afterwards."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from threading import Event
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import CurrentMessage, Middleware, SkipMessage, TimeLimit
from sqlalchemy import text

import actors
from actors.runtime import PermanentError, RetryLater, Snooze, current_job
from actors.runtime.current import NoCurrentJob
from actors.runtime.recorder import actors_elsewhere
from models import ledger
from models.rows import one_row
from tests.integration import worker_support
from tests.integration.worker_support import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    Gate,
    Stage,
    events,
)
from tests.support import wait_for

stage = worker_support.stage


class Broken(Exception):
    """What the actors here raise."""


def cancel(stage: Stage, message: Message[Any]) -> None:
    """Ask for a cancel, as the API does."""
    wish = {"job_id": UUID(message.message_id), "tenant": "default"}
    with stage.engine.connect() as connection:
        assert one_row(connection.execute(ledger.cancel(), wish)) is not None


# -- success


def test_a_job_that_succeeds_keeps_its_result_and_took_one_attempt(stage: Stage) -> None:
    @stage.actor
    def double(x: int) -> dict[str, int]:
        return {"doubled": 2 * x}

    stage.start()
    message = double.send(21)
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 1, 0, {"doubled": 42})
    assert (row["error"], row["errors"], row["result_error"], row["deadline_at"]) == (None, [], None, None)
    assert row["created_at"] <= row["started_at"] <= row["finished_at"]
    assert row["worker_id"] == stage.broker.worker_id
    assert message.get_result(block=True) == {"doubled": 42}


def test_an_async_actor_runs_and_knows_its_job(stage: Stage) -> None:
    @stage.actor
    async def whoami() -> str:
        return str(current_job().id)

    stage.start()
    message = whoami.send()
    assert stage.run(message)["result"] == message.message_id


def test_positional_and_keyword_arguments_arrive_as_sent(stage: Stage) -> None:
    @stage.actor
    def echo(*args: Any, **kwargs: Any) -> list[Any]:
        return [args, kwargs]

    stage.start()
    row = stage.run(echo.send(1, -0.0, None, "ü", deep={"a": [1, {"b": False}]}, n=1e22))
    assert row["result"] == [[1, -0.0, None, "ü"], {"deep": {"a": [1, {"b": False}]}, "n": 1e22}]
    assert str(row["result"][0][1]) == "-0.0"


def test_a_result_that_cannot_be_kept_leaves_the_job_completed(stage: Stage) -> None:
    @stage.actor
    def produce(kind: str) -> Any:
        return {"set": {1}, "huge": "x" * 5_000_000, "nan": float("nan"), "nul": "a\x00b", "lone": "\ud800"}[kind]

    stage.start()
    sent = {kind: produce.send(kind) for kind in ("set", "huge", "nan", "nul", "lone")}
    for kind, message in sent.items():
        row = stage.run(message)
        assert (row["status"], row["attempts"], row["result"]) == (COMPLETED, 1, None), kind
        assert row["result_error"], kind


def test_a_broker_of_ones_own_works_beside_that_of_the_process(stage: Stage) -> None:
    """Importing ``make_broker`` imports ``actors``, whose own actors are bound to the process's broker."""

    @stage.actor
    def work() -> str:
        return "ran"

    assert actors.broker is not stage.broker
    assert actors.sleep.broker is actors.broker
    mine = [actor for actor in actors_elsewhere(stage.broker) if actor.startswith("actors")]
    assert mine == []
    stage.start()
    assert stage.run(work.send())["result"] == "ran"


# -- failure and retries


def test_two_failures_then_success_keep_two_errors(stage: Stage) -> None:
    @stage.actor(max_retries=5)
    def third_time() -> int:
        if current_job().attempt < 3:
            raise Broken(f"attempt {current_job().attempt}")
        return current_job().attempt

    stage.start()
    row = stage.run(third_time.send())
    assert (row["status"], row["attempts"], row["result"], row["error"]) == (COMPLETED, 3, 3, None)
    assert len(row["errors"]) == 2
    for number, entry in enumerate(row["errors"], start=1):
        assert entry["attempt"] == number
        assert (entry["kind"], entry["class"], entry["message"]) == ("failed", "Broken", f"attempt {number}")
        assert "third_time" in entry["traceback"]
        assert entry["worker"] == str(stage.broker.worker_id)
        assert entry["started_at"] <= entry["ended_at"]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_always_fails_is_failed_after_its_last_attempt(stage: Stage, retries: int) -> None:
    runs: list[int] = []

    @stage.actor(max_retries=retries)
    def never() -> None:
        runs.append(current_job().attempt)
        raise Broken("no")

    stage.start()
    row = stage.run(never.send())
    assert (row["status"], row["attempts"], row["max_attempts"]) == (FAILED, retries + 1, retries + 1)
    assert row["error"] == "Broken: no"
    assert len(row["errors"]) == retries + 1
    assert runs == list(range(1, retries + 2))


def test_the_senders_max_attempts_wins_over_the_actors_retries(stage: Stage) -> None:
    @stage.actor(max_retries=5)
    def never() -> None:
        raise Broken

    stage.start()
    row = stage.run(never.send_with_options(max_attempts=2))
    assert (row["status"], row["attempts"]) == (FAILED, 2)


def waits(row: dict[str, Any]) -> float:
    """Milliseconds between an attempt's end and the next one's due time."""
    pause: timedelta = row["run_at"] - row["updated_at"]
    return pause / timedelta(milliseconds=1)


def after_first_failure(stage: Stage, message: Message[Any]) -> dict[str, Any]:
    def failed_once() -> dict[str, Any]:
        row = stage.job(message)
        assert (row["status"], row["attempts"], len(row["errors"])) == (PENDING, 1, 1), row["error"]
        return row

    return wait_for(failed_once)


def test_a_retry_waits_for_the_actors_backoff(stage: Stage) -> None:
    @stage.actor(max_retries=3, min_backoff=20_000, max_backoff=60_000)
    def never() -> None:
        raise Broken

    stage.start()
    row = after_first_failure(stage, never.send())
    assert 20_000 <= waits(row) <= 40_000  # Dramatiq's jitter: once to twice
    assert row["offered_at"] is None  # nothing lies in Redis meanwhile


@pytest.mark.parametrize(
    ("backoff", "least", "most"),
    [
        ({"type": "fixed", "delay": 7_000}, 7_000, 7_000),
        ({"type": "exponential", "delay": 7_000}, 7_000, 14_000),
    ],
)
def test_the_senders_backoff_decides_the_delay(stage: Stage, backoff: dict[str, Any], least: int, most: int) -> None:
    @stage.actor(max_retries=3)
    def never() -> None:
        raise Broken

    stage.start()
    assert least <= waits(after_first_failure(stage, never.send_with_options(backoff=backoff))) <= most


@pytest.mark.parametrize("exception", [Retry, RetryLater])
def test_a_retry_with_a_delay_of_its_own_waits_exactly_that(stage: Stage, exception: type[Retry]) -> None:
    @stage.actor(max_retries=3)
    def later() -> None:
        raise exception("later", delay=9_000)

    stage.start()
    message = later.send_with_options(backoff={"type": "fixed", "delay": 1})
    assert waits(after_first_failure(stage, message)) == 9_000


def test_an_expected_exception_fails_the_job_at_once(stage: Stage) -> None:
    @stage.actor(max_retries=5, throws=(Broken,))
    def expected() -> None:
        raise Broken("as declared")

    stage.start()
    row = stage.run(expected.send())
    assert (row["status"], row["attempts"], row["error"]) == (FAILED, 1, "Broken: as declared")


def test_a_permanent_error_fails_the_job_at_once(stage: Stage) -> None:
    @stage.actor(max_retries=5)
    def hopeless() -> None:
        raise PermanentError("no such address")

    stage.start()
    row = stage.run(hopeless.send())
    assert (row["status"], row["attempts"], row["error"]) == (FAILED, 1, "PermanentError: no such address")


def test_retry_when_decides_alone(stage: Stage) -> None:
    asked: list[tuple[int, str]] = []

    def while_young(retries: int, exception: BaseException) -> bool:
        asked.append((retries, type(exception).__name__))
        return retries < 3

    @stage.actor(max_retries=0, retry_when=while_young)
    def never() -> None:
        raise Broken

    stage.start()
    row = stage.run(never.send())
    assert (row["status"], row["attempts"], row["max_attempts"]) == (FAILED, 4, None)
    assert asked == [(n, "Broken") for n in range(4)]


def test_without_a_limit_of_retries_a_job_is_retried_beyond_the_default(stage: Stage) -> None:
    @stage.actor(max_retries=None)
    def stubborn() -> int:
        if current_job().attempt == 22:  # Dramatiq's default is 20 retries
            raise Broken
        return current_job().attempt

    message = stubborn.send()
    assert stage.execute("UPDATE callboard.jobs SET attempts = 21") == 1  # as if it had failed so often
    stage.start()
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["max_attempts"]) == (COMPLETED, 23, None)


def test_a_message_failed_without_an_exception_is_failed(stage: Stage) -> None:
    @stage.actor(max_retries=5)
    def give_up() -> str:
        message: Any = CurrentMessage.get_current_message()
        message.fail()
        return "not a result"

    stage.start()
    row = stage.run(give_up.send())
    assert (row["status"], row["attempts"], row["result"]) == (FAILED, 1, None)
    assert row["error"] == "the message was failed without an exception"


def test_a_time_limit_ends_the_attempt_as_failed(stage: Stage) -> None:
    @stage.actor(max_retries=0, time_limit=100)
    def slow() -> None:
        until = time.monotonic() + 8
        while time.monotonic() < until:
            Event().wait(0.01)

    (limiter,) = (m for m in stage.broker.middleware if isinstance(m, TimeLimit))
    limiter.after_process_boot(stage.broker)  # the command line does it
    stage.start()
    row = stage.run(slow.send())
    assert (row["status"], row["attempts"], row["error"]) == (FAILED, 1, "TimeLimitExceeded")
    assert row["errors"][0]["kind"] == "failed"


class Unspeakable(Exception):
    """An exception that cannot be told."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


#: Exceptions, and what their job's ``error`` must contain beside their class.
HOSTILE_ERRORS: dict[str, tuple[BaseException, str]] = {
    "no-str": (Unspeakable(), ""),
    "nul": (Broken("a\x00b"), "b"),
    "surrogate": (Broken("a\ud800b"), "b"),
    "long-tail": (Broken("first\n" + "x" * 1_000_000), "first"),
    "long-line": (Broken("x" * 1_000_000), "xxx"),
    "empty": (Broken(), ""),
    "arguments": (Broken({"a": {1, 2}}, b"\xff"), "xff"),
    "key-error": (KeyError("\udfff\x00"), ""),
}


def test_an_exception_of_any_text_ends_the_attempt(stage: Stage) -> None:
    @stage.actor(max_retries=1)
    def hostile(name: str) -> None:
        raise HOSTILE_ERRORS[name][0]

    stage.start()
    for name, message in {name: hostile.send(name) for name in HOSTILE_ERRORS}.items():
        error, kept = HOSTILE_ERRORS[name]
        row = stage.run(message)
        assert (row["status"], row["attempts"], len(row["errors"])) == (FAILED, 2, 2), name
        assert row["error"].startswith(type(error).__name__), name
        assert kept in row["error"], name
        assert len(row["error"]) <= 500, name
        assert len(row["errors"][0]["message"]) <= 4_000, name


def test_exceptions_beyond_exception_end_the_attempt_too(stage: Stage) -> None:
    @stage.actor(max_retries=0)
    def leave(kind: str) -> None:
        raise {
            "exit": SystemExit(3),
            "interrupt": KeyboardInterrupt(),
            "base": BaseException("deep"),
            "cancelled": CancelledError(),
        }[kind]

    stage.start()
    sent = [leave.send(kind) for kind in ("exit", "interrupt", "base", "cancelled")]
    assert [stage.run(message)["error"] for message in sent] == [
        "SystemExit: 3",
        "KeyboardInterrupt",
        "BaseException: deep",
        "CancelledError",
    ]


#: What an actor may raise, with a delay that is no sensible number of milliseconds.
ODD_DELAYS: dict[str, Exception] = {
    "retry-text": Retry("x", delay="soon"),  # type: ignore[arg-type]
    "retry-infinite": Retry("x", delay=float("inf")),  # type: ignore[arg-type]
    "retry-huge": Retry("x", delay=10**30),
    "retry-past": Retry("x", delay=-5_000),
    "snooze-text": Snooze("soon"),  # type: ignore[arg-type]
    "snooze-nan": Snooze(float("nan")),  # type: ignore[arg-type]
    "snooze-huge": Snooze(10**30),
    "snooze-timedelta": Snooze(timedelta(seconds=1)),  # type: ignore[arg-type]
}


def test_no_odd_delay_leaves_a_job_running_or_a_row_that_cannot_be_read(stage: Stage) -> None:
    raised: set[str] = set()

    @stage.actor(max_retries=1)
    def odd(name: str) -> None:
        if name not in raised:
            raised.add(name)
            raise ODD_DELAYS[name]

    stage.start(threads=len(ODD_DELAYS))
    for name in ODD_DELAYS:
        odd.send(name)
    wait_for(lambda: len(raised) == len(ODD_DELAYS))
    running = text("SELECT args ->> 0 FROM callboard.jobs WHERE status = 'RUNNING' ORDER BY 1")
    unreadable = text("SELECT args ->> 0 FROM callboard.jobs WHERE NOT isfinite(run_at) OR run_at > '9999-01-01'")

    def faults() -> list[list[str]]:
        with stage.engine.connect() as connection:
            return [list(connection.scalars(question)) for question in (running, unreadable)]

    with suppress(AssertionError):
        wait_for(lambda: faults() == [[], []], 3)
    assert faults() == [[], []]


def test_progress_that_json_does_not_know_leaves_no_job_running(stage: Stage) -> None:
    refused: list[str] = []

    @stage.actor(max_retries=0)
    def counting() -> None:
        current_job().progress(1)
        for number in (Decimal("1.5"), Fraction(1, 3), 10**400):
            try:
                current_job().progress(number)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError) as error:
                refused.append(type(error).__name__)

    stage.start()
    message = counting.send()
    row = stage.run(message, timeout=5)
    assert row["status"] == COMPLETED
    assert row["progress"]["current"] in (1, 1.5) or refused


def test_results_that_misbehave_while_they_are_written_down_leave_no_job_running(stage: Stage) -> None:
    class Evil(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no")

        __iter__ = keys = values = items  # type: ignore[assignment]

    class Liar(str):
        def __str__(self) -> str:
            raise RuntimeError("no")

    nested: list[Any] = []
    nested.append(nested)

    @stage.actor(max_retries=0)
    def produce(which: int) -> Any:
        return [Evil(a=1), Liar("text"), nested, {"k": Evil(b=2)}, {Liar("key"): 1}, range(3), lambda: 1][which]

    stage.start()
    sent = [produce.send(n) for n in range(7)]
    assert [stage.run(message, timeout=5)["status"] for message in sent] == [COMPLETED] * 7


# -- attempts that do not count


@pytest.mark.parametrize(
    ("raising", "entries"),
    [(lambda: RateLimitExceeded("busy"), ["released"]), (lambda: Snooze(30), [])],
    ids=["rate-limit", "snooze"],
)
def test_a_rate_limit_or_a_snooze_gives_the_attempt_back(
    stage: Stage, raising: Callable[[], Exception], entries: list[str]
) -> None:
    runs: list[int] = []

    @stage.actor(max_retries=0)
    def once_busy() -> str:
        runs.append(current_job().attempt)
        if len(runs) == 1:
            raise raising()
        return "ran"

    stage.start()
    row = stage.run(once_busy.send())
    assert (row["status"], row["attempts"], row["result"]) == (COMPLETED, 1, "ran")
    assert runs == [1, 1]
    assert [entry["kind"] for entry in row["errors"]] == entries


def test_a_snooze_lasts_as_long_as_it_says(stage: Stage) -> None:
    @stage.actor
    def asleep() -> None:
        raise Snooze(40_000)

    stage.start()
    message = asleep.send()

    def snoozes() -> dict[str, Any]:
        row = stage.job(message)
        assert (row["status"], row["attempts"], row["started_at"] is not None) == (PENDING, 0, True)
        return row

    assert waits(wait_for(snoozes)) == 40_000


def test_a_shutdown_gives_the_attempt_back(stage: Stage) -> None:
    started = Event()

    @stage.actor(max_retries=0, notify_shutdown=True)
    def endless() -> None:
        started.set()
        while True:
            Event().wait(0.01)

    stage.start()
    message = endless.send()
    assert started.wait(10)
    stage.stop()
    row = stage.job(message)
    assert (row["status"], row["attempts"], row["crashes"]) == (PENDING, 0, 0)
    assert [entry["kind"] for entry in row["errors"]] == ["released"]
    # The relay of another worker offers it at once, unless this one's own was still there to do it.
    assert row["offered_at"] is None or stage.redis.llen("dramatiq:default") == 1


# -- messages that a later middleware skips


def test_a_message_older_than_its_age_limit_is_failed(stage: Stage) -> None:
    runs: list[int] = []

    @stage.actor(max_age=1, max_retries=5)
    def fresh_only() -> None:
        runs.append(1)

    stage.start()
    row = stage.run(fresh_only.send_with_options(delay=50))
    assert (row["status"], runs) == (FAILED, [])
    assert "age limit" in row["error"]


def test_a_message_that_a_middleware_skips_does_not_stay_running(stage: Stage) -> None:
    class Bouncer(Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
            raise SkipMessage("not tonight")

    stage.broker.add_middleware(Bouncer())

    @stage.actor
    def show() -> None: ...

    stage.start()
    row = stage.run(show.send())
    assert row["status"] == CANCELLED
    assert "skipped" in row["error"]


# -- cancel


def test_a_cooperative_job_hears_of_its_cancel_within_two_seconds(stage: Stage) -> None:
    started = Event()

    @stage.actor(max_retries=5)
    def patient() -> None:
        started.set()
        current_job().wait(60)

    stage.start()
    message = patient.send()
    assert started.wait(10)
    cancel(stage, message)
    row = stage.run(message, timeout=4)
    assert (row["status"], row["attempts"]) == (CANCELLED, 1)
    assert row["finished_at"] - row["cancel_requested_at"] <= timedelta(seconds=2)


def test_the_status_of_a_cancelled_running_job_changes_when_its_attempt_ends(stage: Stage) -> None:
    gate = Gate()

    @stage.actor(max_retries=5)
    def failing() -> None:
        gate.wait()
        raise Broken("after the cancel")

    stage.start()
    message = failing.send()
    gate.meet()
    cancel(stage, message)
    row = stage.job(message)
    assert row["status"] == RUNNING
    assert row["cancel_requested_at"] is not None
    gate.opened.set()
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["errors"][0]["message"]) == (CANCELLED, 1, "after the cancel")


def test_a_cancel_that_comes_too_late_leaves_the_result(stage: Stage) -> None:
    gate = Gate()

    @stage.actor
    def busy() -> str:
        gate.wait()
        return "done"

    stage.start()
    message = busy.send()
    gate.meet()
    cancel(stage, message)
    gate.opened.set()
    assert stage.run(message)["result"] == "done"


# -- what an actor may say and know


def test_progress_is_written_at_most_four_times_a_second_and_the_last_one_is_kept(stage: Stage) -> None:
    took: list[float] = []

    @stage.actor
    def counting() -> None:
        begun = time.monotonic()
        for n in range(1, 101):
            current_job().progress(n, 100, f"step {n}")
            Event().wait(0.01)
        took.append(time.monotonic() - begun)

    stage.start()
    row = stage.run(counting.send())
    assert row["progress"] == {"current": 100, "total": 100, "message": "step 100"}
    writes = row["version"] - 3  # insert, claim and finish rise it too
    assert 2 <= writes <= 4 * took[0] + 1


def test_progress_that_waits_is_written_though_nothing_follows(stage: Stage) -> None:
    gate = Gate()

    @stage.actor
    def quiet() -> None:
        current_job().progress(1, 3)
        current_job().progress(2, 3)
        gate.wait()

    stage.start()
    message = quiet.send()
    gate.meet()
    wait_for(lambda: (stage.job(message)["progress"] or {}).get("current") == 2, 2)
    gate.opened.set()
    stage.run(message)


def test_log_lines_are_kept_in_order_with_their_attempt(stage: Stage) -> None:
    @stage.actor(max_retries=1)
    def talkative() -> None:
        job = current_job()
        for n in range(150):
            job.log(f"{job.attempt}.{n}")
        if job.attempt == 1:
            raise Broken

    stage.start()
    lines = stage.run(talkative.send())["log"]
    assert len(lines) == 200  # the latest
    said = [f"1.{n}" for n in range(100, 150)] + [f"2.{n}" for n in range(150)]
    assert [(line["attempt"], line["text"]) for line in lines] == [(int(text[0]), text) for text in said]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), True])
def test_progress_that_is_no_number_is_refused_to_the_actor(stage: Stage, number: Any) -> None:
    @stage.actor(max_retries=0)
    def wrong() -> None:
        current_job().progress(number)

    stage.start()
    assert stage.run(wrong.send())["error"] == "ValueError: current must be a finite number"


def test_an_actor_knows_its_job_and_nobody_else_has_one(stage: Stage) -> None:
    stage.execute("INSERT INTO callboard.tenants (id) VALUES ('acme')")

    @stage.actor(max_retries=1)
    def introduce() -> list[Any]:
        job = current_job()
        if job.attempt == 1:
            raise Broken
        return [str(job.id), job.attempt, job.tenant_id]

    with pytest.raises(NoCurrentJob):
        current_job()
    stage.start(threads=1)
    message = introduce.send_with_options(tenant_id="acme")
    assert stage.run(message)["result"] == [message.message_id, 2, "acme"]
    with pytest.raises(NoCurrentJob):
        current_job()


def test_nothing_of_a_job_is_left_for_the_hooks_of_the_next_message(stage: Stage) -> None:
    seen: list[bool] = []

    class Curious(Middleware):
        def after_ack(self, broker: dramatiq.Broker, message: Any) -> None:
            try:
                current_job()
            except NoCurrentJob:
                seen.append(True)

    stage.broker.add_middleware(Curious())

    @stage.actor
    def quick() -> None: ...

    stage.start(threads=1)
    stage.run(quick.send())
    assert wait_for(lambda: seen) == [True]


# -- the log


def test_a_failed_attempt_is_logged_as_an_event_with_its_job(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    @stage.actor(max_retries=0)
    def never() -> None:
        raise Broken("why")

    stage.start()
    message = never.send()
    stage.run(message)
    (line,) = wait_for(lambda: events(caplog, "job.attempt_failed"))
    assert message.message_id in line
    assert "tenant_id='default'" in line
    assert "attempt=1" in line
