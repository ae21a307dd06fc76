"""Each protection, with it and without it: the run without it must break the promise that it keeps.

A test here plays the same scene twice. The second time the protection is taken out, and the scene has to show the
damage: else it would not have tested anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

import pytest
from dramatiq import pipeline, set_broker
from dramatiq.broker import MessageProxy
from sqlalchemy import Engine, Text, Uuid, bindparam, cast, exists, func, update
from sqlalchemy.dialects.postgresql import ARRAY

from actors.runtime import bell, claiming, finishing, keys
from actors.runtime.bell import push
from actors.runtime.broker import CallboardBroker, default_middleware
from actors.runtime.recorder import Recorder
from models import ledger, liveness
from models.arrays import rows_of
from models.engine import transaction
from models.tables import is_pending, is_running, jobs, workers
from tests.integration import worker_support
from tests.integration.worker_support import (
    COMPLETED,
    FAILED,
    RUNNING,
    Gate,
    Stage,
    events,
    stage_on,
    stock_bytes,
    stock_message,
)
from tests.support import wait_for

both = pytest.mark.parametrize("protected", [True, False], ids=["protected", "without"])
stage = worker_support.stage


# -- the fence: a finish names the attempt's token


def complete_without_token() -> Any:
    """``ledger.complete`` as it would be if it trusted the id and the status."""
    done = rows_of("done", id=Uuid(), token=Uuid(), result=Text(), result_error=Text(), progress=Text())
    return (
        update(jobs)
        .values(status=COMPLETED, result=cast(done.c.result, jobs.c.result.type), finished_at=func.now())
        .where(jobs.c.id == done.c.id, is_running)
        .returning(*ledger.EVENT_COLUMNS)
    )


@both
def test_the_token_keeps_a_zombie_from_ending_somebody_elses_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    if not protected:
        monkeypatch.setattr(finishing.ledger, "complete", complete_without_token)
    first, second = Gate(), Gate()

    @stage.actor
    def work() -> str:
        mine = first if not first.reached.is_set() else second
        mine.wait()
        return "zombie" if mine is first else "heir"

    @stage.actor
    def child(who: str) -> str:
        return who

    stage.start()
    chain = pipeline([work.message(), child.message()]).run()
    message = chain.messages[0]
    first.meet()
    stage.execute(
        "UPDATE callboard.jobs SET status = 'PENDING', attempt_token = NULL, offered_at = NULL WHERE id = :id",
        id=message.message_id,
    )
    second.meet()  # the heir is in the actor
    first.opened.set()
    wait_for(lambda: stage.job(message)["status"] != RUNNING or acknowledged(stage) >= 1, what="the zombie's end")
    second.opened.set()
    assert stage.run(message)["status"] == COMPLETED
    (row,) = wait_for(lambda: stage.jobs("child"))
    assert (stage.job(message)["result"] == "heir") is protected
    assert (stage.wait_until_ended(row["id"])["result"] == "heir") is protected


def acknowledged(stage: Stage) -> int:
    """How many of the two messages of that scene Redis has forgotten."""
    return 2 - stage.redis.hlen(keys.messages_key("default"))


# -- the claim: one live lease per job


def claim_of_anything() -> Any:
    """``ledger.claim`` as it would be if it took whatever is not terminal."""
    asked = rows_of("want", id=Uuid(), token=Uuid(), limit_ms=Text())
    return (
        update(jobs)
        .values(
            status=RUNNING,
            attempts=jobs.c.attempts + 1,
            attempt_token=asked.c.token,
            worker_id=bindparam("worker", type_=Uuid()),
            started_at=func.now(),
        )
        .where(jobs.c.id == asked.c.id, is_pending | is_running)
        .returning(*ledger.EVENT_COLUMNS, jobs.c.attempt_token, jobs.c.max_attempts, jobs.c.options, jobs.c.started_at)
    )


@both
def test_the_claim_keeps_copies_of_a_message_from_running_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    if not protected:
        monkeypatch.setattr(claiming.ledger, "claim", claim_of_anything)
    lock, inside, most = Lock(), [0], [0]
    enough = Event()

    @stage.actor(max_retries=50)
    def alone() -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        enough.wait(2)
        with lock:
            inside[0] -= 1

    message = alone.send()
    stage.broker.bell.flush()
    for dispatch in (51, 52, 53):
        offer = stage.offer(message, dispatch)
        stage.push("default", offer.redis_id, offer.data)
    stage.start()
    wait_for(lambda: most[0] > 1 or acknowledged_copies(stage) >= 3, what="the copies to be refused or run")
    enough.set()
    stage.run(message)
    assert (most[0] == 1) is protected


def acknowledged_copies(stage: Stage) -> int:
    return 4 - stage.redis.hlen(keys.messages_key("default"))


@both
def test_the_claim_keeps_a_worker_declared_dead_from_taking_jobs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Else its jobs would be taken back at once, again and again."""

    @stage.actor
    def work() -> None: ...

    stage.start()
    me = stage.broker.worker_id
    message = work.send_with_options(delay=3_600_000)
    stage.execute("UPDATE callboard.jobs SET run_at = now()")
    stage.execute("UPDATE callboard.workers SET dead_at = now(), death = 'lost'")
    statement = ledger.claim() if protected else claim_of_anything()
    with stage.engine.connect() as connection:
        values = {
            "want_id": [str(stage.job(message)["id"])],
            "want_token": ["00000000-0000-0000-0000-000000000001"],
            "want_limit_ms": [None],
            "worker": me,
            "quarantine": False,
        }
        claimed = connection.execute(statement, values).all()
    assert (claimed == []) is protected


# -- acknowledge after the commit


class HastyRecorder(Recorder):
    """Acknowledges a message as soon as it sees it."""

    def before_process_message(self, broker: Any, message: MessageProxy) -> None:
        broker.acknowledge(message.queue_name, [message.redis_id])  # type: ignore[attr-defined]
        super().before_process_message(broker, message)


@contextmanager
def stage_with(engine: Engine, middleware: Callable[[CallboardBroker], list[Any]] | None) -> Iterator[Stage]:
    """A stage whose broker has another list of middleware."""
    with stage_on(engine) as stage:
        if middleware is not None:
            given = middleware(stage.broker)
            stage.broker.middleware.clear()
            for each in given:
                stage.broker.add_middleware(each)
            set_broker(stage.broker)
        yield stage


def hasty(broker: CallboardBroker) -> list[Any]:
    return [HastyRecorder(broker), *default_middleware(broker)[1:]]


@both
def test_redis_keeps_a_stock_message_until_the_ledger_has_it(
    engine: Engine, caplog: pytest.LogCaptureFixture, protected: bool
) -> None:
    """Its only copy is in Redis: who acknowledges first and dies has lost a job."""
    with stage_with(engine, None if protected else hasty) as stage:

        @stage.actor
        def work() -> str:
            return "ran"

        stage.start()
        message = stock_message("default", "work")
        with transaction(engine).begin() as somebody:
            # For two seconds nobody can write a row; the worker waits for it.
            somebody.exec_driver_sql("LOCK TABLE callboard.jobs IN SHARE MODE")
            stage.push("default", "r1", stock_bytes(message, "r1"))
            wait_for(lambda: events(caplog, "claim.waits"))
            kept = stage.redis.hexists(keys.messages_key("default"), "r1")
        assert bool(kept) is protected
        assert stage.run(message)["result"] == "ran"


@both
def test_an_acknowledgement_follows_the_commit_of_the_end(engine: Engine, protected: bool) -> None:
    with stage_with(engine, None if protected else hasty) as stage:
        at_ack: list[str] = []
        acknowledge = stage.broker.acknowledge

        def watched(queue: str, identifiers: Any) -> None:
            at_ack.extend(row["status"] for row in stage.jobs("work"))
            acknowledge(queue, identifiers)

        stage.broker.acknowledge = watched  # type: ignore[method-assign]

        @stage.actor
        def work() -> None: ...

        stage.start()
        stage.run(work.send())
        wait_for(lambda: at_ack)
        assert (at_ack[0] == COMPLETED) is protected


# -- the recorder stands first


def recorder_last(broker: CallboardBroker) -> list[Any]:
    first, *others = default_middleware(broker)
    return [*others, first]


@both
def test_the_recorder_at_index_0_decides_after_retries_and_pipelines(engine: Engine, protected: bool) -> None:
    with stage_with(engine, None if protected else recorder_last) as stage:

        @stage.actor(max_retries=3)
        def second_time() -> str:
            if not failed.is_set():
                failed.set()
                raise ValueError("once")
            return "ran"

        @stage.actor
        def parent() -> str:
            return "handed on"

        @stage.actor
        def child(what: str) -> str:
            return what

        failed = Event()
        stage.start()
        message = second_time.send()
        chain = pipeline([parent.message(), child.message()]).run()
        row = stage.run(message)
        stage.run(chain.messages[0])
        wait_for(lambda: not stage.redis.hlen(keys.messages_key("default")))
        assert ((row["status"], row["attempts"]) == (COMPLETED, 2)) is protected
        assert (row["status"] == FAILED) is not protected  # it did not know that Retries wanted another attempt
        assert bool(stage.jobs("child")) is protected  # it ended the parent before Pipelines had spoken


# -- set if absent, then push

PUSH_ALWAYS = keys.PUSH.replace("redis.call('hsetnx', KEYS[1], ARGV[i], ARGV[i + 1]) == 1", "true")


@both
def test_a_push_whose_reply_was_lost_and_that_is_repeated_is_one_entry(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    if not protected:
        assert PUSH_ALWAYS != keys.PUSH
        monkeypatch.setattr(bell, "PUSH", PUSH_ALWAYS)

    @stage.actor
    def work() -> None: ...

    message = work.send_with_options(delay=3_600_000)
    for _ in range(3):
        push(stage.broker.resources, [stage.offer(message, 1)])
    assert (stage.redis.llen("dramatiq:default") == 1) is protected


# -- the sweep


@both
def test_the_epoch_makes_good_at_once_what_a_flush_took(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Without it the sweep still does, some seconds later; and without that nobody would."""
    from actors.runtime.relay import Relay

    @stage.actor
    def work() -> None: ...

    relay = Relay(stage.broker)
    relay.run_once()
    work.send()
    stage.broker.bell.flush()
    assert stage.redis.llen("dramatiq:default") == 1
    stage.redis.flushdb()
    if not protected:
        monkeypatch.setattr(relay, "_is_new_epoch", lambda: False)
    offered = relay.run_once()
    assert (offered == 1) is protected
    assert (stage.redis.llen("dramatiq:default") == 1) is protected
    if not protected:
        stage.execute("UPDATE callboard.jobs SET offered_at = offered_at - interval '10 seconds'")
        assert relay.run_once() == 1  # the sweep alone
        monkeypatch.setattr(relay, "_sweep", lambda _: 0)
        stage.redis.flushdb()
        stage.execute("UPDATE callboard.jobs SET offered_at = offered_at - interval '10 minutes'")
        assert relay.run_once() == 0


# -- rescue looks again


def rescue_without_status() -> Any:
    """``ledger.rescue`` as it would be if it believed what it saw a moment ago (River 1302)."""
    dead = exists().where(workers.c.id == jobs.c.worker_id, workers.c.dead_at.is_not(None))
    nothing = cast(bindparam("crashed", type_=ARRAY(Text)), ARRAY(Text)) == cast(
        bindparam("unstarted", type_=ARRAY(Text)), ARRAY(Text)
    )
    return update(jobs).values(status="PENDING").where(dead, nothing).returning(*ledger.EVENT_COLUMNS)


@both
def test_the_rescuer_leaves_alone_what_has_ended_meanwhile(stage: Stage, protected: bool) -> None:
    @stage.actor
    def work() -> str:
        return "ran"

    stage.start()
    message = work.send()
    stage.run(message)
    worker = stage.broker.worker_id
    stage.stop()
    with transaction(stage.engine).begin() as connection:
        connection.execute(liveness.declare_dead(), {"worker": worker, "cause": "lost"})
        statement = ledger.rescue() if protected else rescue_without_status()
        connection.execute(statement, {"crashed": [], "unstarted": []})
    assert (stage.job(message)["status"] == COMPLETED) is protected
