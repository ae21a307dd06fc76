"""Redis and Postgres go away in the middle of work; every accepted job still ends once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from threading import Event, Lock
from typing import Any

import pytest
from dramatiq import Message

from actors.runtime import claiming, current_job
from dev.valkey import Valkey
from models import ledger, liveness
from models.engine import transaction
from tests.integration import worker_support
from tests.integration.worker_support import COMPLETED, RUNNING, Gate, Stage, events, unreachable_postgres
from tests.support import wait_for

own_valkey = worker_support.own_valkey
stage = worker_support.stage


class Tally:
    """Counts the runs of each job, outside of the ledger."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.runs: Counter[tuple[str, int]] = Counter()

    def note(self) -> int:
        """Count this attempt; returns how many there have been in all."""
        job = current_job()
        with self._lock:
            self.runs[str(job.id), job.attempt] += 1
            return self.runs.total()


class Work:
    """Jobs that take 20 ms each, and a signal when some of them are done."""

    def __init__(self, stage: Stage, jobs: int, middle: int) -> None:
        self.stage = stage
        self.jobs = jobs
        self.tally = Tally()
        self.half_way = Event()

        @stage.actor(max_retries=5)
        def work(n: int) -> int:
            if self.tally.note() == middle:
                self.half_way.set()
            Event().wait(0.02)
            return n

        self.sent: list[Message[Any]] = stage.send([work.message(n) for n in range(jobs)])

    def everything_ran_once(self) -> None:
        """All COMPLETED by their first attempt, each of which ran once."""
        rows = self.stage.wait_until_all_ended(self.jobs, 40)
        results = {str(row["id"]): row["result"] for row in rows}
        assert [results[message.message_id] for message in self.sent] == list(range(self.jobs))
        assert Counter((row["status"], row["attempts"], row["crashes"]) for row in rows) == {
            (COMPLETED, 1, 0): self.jobs
        }
        assert self.tally.runs == {(message.message_id, 1): 1 for message in self.sent}


@pytest.fixture
def shaky_stage(own_valkey: Valkey, stage: Stage) -> Iterator[Stage]:
    """A stage on a Valkey that the test may stop."""
    assert stage.broker.settings.redis_url == own_valkey.url
    yield stage
    stage.stop()


def test_flushing_redis_in_the_middle_loses_and_doubles_nothing(shaky_stage: Stage) -> None:
    work = Work(shaky_stage, jobs=200, middle=60)
    shaky_stage.start()
    assert work.half_way.wait(20)
    shaky_stage.redis.flushall()
    work.everything_ran_once()


def test_redis_that_stops_and_comes_back_empty_loses_and_doubles_nothing(
    shaky_stage: Stage, own_valkey: Valkey
) -> None:
    work = Work(shaky_stage, jobs=200, middle=60)
    shaky_stage.start()
    assert work.half_way.wait(20)
    own_valkey.stop()
    late = shaky_stage.broker.actors["work"].send(200)  # the sender does not notice
    work.sent.append(late)
    work.jobs += 1
    own_valkey.boot()
    work.everything_ran_once()
    # No consumer had to be replaced: it would have lost its counts.
    wait_for(lambda: not shaky_stage.redis.hlen("dramatiq:default.msgs"))


def test_jobs_run_although_redis_was_away_when_the_worker_started(shaky_stage: Stage, own_valkey: Valkey) -> None:
    own_valkey.stop()
    work = Work(shaky_stage, jobs=20, middle=1)
    shaky_stage.start()
    own_valkey.boot()
    work.everything_ran_once()


def test_jobs_end_although_redis_refuses_to_write(
    shaky_stage: Stage, own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(shaky_stage, jobs=100, middle=30)
    shaky_stage.start()
    assert work.half_way.wait(20)
    shaky_stage.redis.config_set("maxmemory", 1)
    wait_for(lambda: events(caplog, "consumer.waits") or events(caplog, "relay.waits"), 10)
    shaky_stage.redis.config_set("maxmemory", 0)
    work.everything_ran_once()


def test_postgres_that_cuts_every_connection_for_three_seconds_fails_no_job(
    stage: Stage, postgres_url: str, database_url: str
) -> None:
    tally, half_way = Tally(), Event()

    @stage.actor(max_retries=0)  # one error too many would show
    def work(n: int) -> int:
        if tally.note() == 30:
            half_way.set()
        Event().wait(0.02)
        return n

    stage.send([work.message(n) for n in range(100)])
    stage.start()
    assert half_way.wait(20)
    with unreachable_postgres(postgres_url, database_url):
        Event().wait(3)
    rows = stage.wait_until_all_ended(100, 40)
    assert Counter((row["status"], row["attempts"], row["crashes"]) for row in rows) == {(COMPLETED, 1, 0): 100}
    assert sorted(row["result"] for row in rows) == list(range(100))
    assert set(tally.runs.values()) == {1}


def test_a_job_that_ends_while_postgres_is_away_is_finished_when_it_is_back(
    stage: Stage, postgres_url: str, database_url: str
) -> None:
    gate = Gate()

    @stage.actor(max_retries=0)
    def work() -> str:
        gate.wait()
        return "kept"

    stage.start()
    message = work.send()
    gate.meet()
    worker = stage.broker.worker_id
    with unreachable_postgres(postgres_url, database_url):
        gate.opened.set()
        Event().wait(1)
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["result"], row["worker_id"]) == (COMPLETED, 1, "kept", worker)


def test_a_worker_that_starts_while_postgres_is_away_works_when_it_is_back(
    stage: Stage, postgres_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.actor
    def work() -> str:
        return "ran"

    message = work.send()
    with unreachable_postgres(postgres_url, database_url):
        stage.start()
        Event().wait(0.5)
    assert stage.run(message)["result"] == "ran"


def test_a_cut_liveness_connection_costs_no_job(
    stage: Stage, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker takes its lock again under its old name, long before anybody may call it dead."""
    caplog.set_level("INFO", "callboard.liveness")
    gate = Gate()

    @stage.actor(max_retries=0)
    def work() -> str:
        gate.wait()
        return "kept"

    stage.start()
    message = work.send()
    gate.meet()
    before = stage.broker.worker_id
    assert stage.execute(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND d.datname = current_database()"
    ) == 1  # fmt: skip
    wait_for(lambda: events(caplog, "worker.lock_taken_again"), 8)
    assert stage.job(message)["status"] == RUNNING
    gate.opened.set()
    row = stage.run(message)
    assert (row["result"], row["attempts"], row["errors"]) == ("kept", 1, [])
    assert stage.broker.worker_id == before
    assert [worker["dead_at"] for worker in stage.workers()] == [None]


def test_a_worker_declared_dead_goes_on_under_a_new_name_and_its_attempt_is_fenced(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[str] = []
    first = Gate()

    @stage.actor(max_retries=3)
    def work() -> int:
        job = current_job()
        if job.attempt == 1:
            first.wait()
            try:
                while True:
                    job.wait(0.05)
            except Exception as error:
                raised.append(f"{type(error).__name__}: {error}")
                raise
        return job.attempt

    stage.start()
    message = work.send()
    first.meet()
    old = stage.broker.worker_id
    with transaction(stage.engine).begin() as connection:  # as the rescuer does
        connection.execute(liveness.declare_dead(), {"worker": old, "cause": "lost"})
        connection.execute(ledger.rescue(), {"crashed": [], "unstarted": []})
    first.opened.set()
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 2, 0, 2)
    assert [(entry["kind"], entry["worker"]) for entry in row["errors"]] == [("lost", str(old))]
    wait_for(lambda: events(caplog, "attempt.fenced"))
    assert raised == ["JobCancelled: the lease of this attempt was lost"]
    assert stage.broker.worker_id != old
    assert row["worker_id"] == stage.broker.worker_id
    assert [worker["dead_at"] is None for worker in stage.workers()] == [False, True]


def test_an_attempt_past_its_deadline_is_taken_back_and_told_so(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    first = Gate()
    told = Event()

    @stage.actor(max_retries=1)
    def work() -> int:
        job = current_job()
        if job.attempt == 1:
            first.wait()
            try:
                job.wait(30)
            finally:
                told.set()
        return job.attempt

    stage.start()
    message = work.send()
    first.meet()
    first.opened.set()
    row = stage.job(message)
    assert 600 <= (row["deadline_at"] - row["started_at"]).total_seconds() <= 700  # the time limit and some
    stage.execute("UPDATE callboard.jobs SET deadline_at = now() - interval '1 second'")
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 2, 0, 2)
    assert [(entry["kind"], entry["message"]) for entry in row["errors"]] == [("lost", "deadline exceeded")]
    assert told.wait(5)
    assert wait_for(lambda: events(caplog, "attempt.lease_lost"))


def test_the_last_attempt_past_its_deadline_fails_the_job(stage: Stage) -> None:
    @stage.actor(max_retries=0)
    def work() -> None:
        current_job().wait(30)

    stage.start()
    message = work.send()
    stage.wait_for_status(message, RUNNING)
    stage.execute("UPDATE callboard.jobs SET deadline_at = now() - interval '1 second'")
    row = stage.run(message)
    assert (row["status"], row["attempts"], row["error"]) == ("FAILED", 1, "deadline exceeded in the last attempt")


def test_a_worker_drains_when_a_thread_is_stuck_though_the_ledger_knew_of_it_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline runs from the claim by the database's clock, the process's own count from the claim's answer."""
    monkeypatch.setattr(claiming, "OVERTIME_S", 1.5)
    first, drained = Gate(), Event()

    @stage.actor(max_retries=3, time_limit=1)
    def stuck() -> None:
        if current_job().attempt == 1:
            first.wait()

    before = signal.signal(signal.SIGTERM, lambda *_: drained.set())
    try:
        stage.start()
        message = stuck.send()
        first.meet()
        stage.execute("UPDATE callboard.jobs SET deadline_at = now()")  # a moment before the process's own count
        wait_for(lambda: events(caplog, "attempt.lease_lost"))
        assert drained.wait(4), "the worker goes on with a thread that nothing can interrupt"
    finally:
        first.opened.set()
        stage.stop()
        signal.signal(signal.SIGTERM, before)
    assert stage.job(message)["crashes"] == 0
