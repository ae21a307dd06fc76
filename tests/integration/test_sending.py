"""The write path: a row first, in the caller's transaction if there is one, then the bell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import psycopg
import pytest
import redis as redis_py
from dramatiq import Message
from dramatiq.middleware import Middleware
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from actors.runtime import job_type
from actors.runtime.broker import CallboardBroker
from actors.runtime.errors import OptionRefused, PayloadRefused
from actors.runtime.feed import stream_key
from actors.runtime.job_type import JobActor
from actors.runtime.keys import list_key, messages_key
from actors.runtime.messages import MARK, job_id_of
from actors.runtime.relay import Relay
from actors.runtime.sending import asend_many, send_many
from models.engine import sqlalchemy_url
from models.errors import CallboardError, UniqueKeyBusy, UnknownTenant
from models.settings import Settings, get_settings
from models.tables import jobs
from tests.integration import ledger_support
from tests.integration.ledger_support import Book
from tests.support import wait_for

module_database, database_url = ledger_support.module_database, ledger_support.database_url

Actor = dramatiq.Actor[..., Any]
#: Keys are waited for this long, and not much longer.
KEY_WAIT_S = (1.5, 6.0)


class Order(BaseModel):
    value: Any


@pytest.fixture
def act(broker: CallboardBroker) -> Actor:
    """An actor that takes anything."""

    def act(*args: Any, **kwargs: Any) -> None: ...

    return dramatiq.actor(act, broker=broker)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def order(broker: CallboardBroker) -> JobActor[..., Any]:
    """A job type with a field of any type."""

    @job_type(Order)
    @dramatiq.actor(actor_name="order", broker=broker)
    def order(value: Any) -> None: ...

    return order


class Doorstep:
    """What has arrived in Redis, once the bell is silent."""

    def __init__(self, broker: CallboardBroker, redis: Any, settings: Settings) -> None:
        self._broker = broker
        self._redis = redis
        self._stream = stream_key(settings)

    def offers(self, queue: str = "default", band: int = 0) -> list[dict[str, Any]]:
        """The messages in a list, decoded."""
        self._broker.bell.flush(5)
        ids = self._redis.lrange(list_key(queue, band), 0, -1)
        return [json.loads(self._redis.hget(messages_key(queue), i)) for i in ids]

    def jobs(self, queue: str = "default", band: int = 0) -> list[UUID]:
        """The ids of the jobs in a list."""
        return [UUID(m["message_id"]) for m in self.offers(queue, band)]

    def changes(self) -> list[dict[str, Any]]:
        """What the feed was told."""
        self._broker.bell.flush(5)
        entries = self._redis.xrange(self._stream)
        return [change for _, fields in entries for change in json.loads(fields[b"e"])]

    def is_empty(self) -> bool:
        """Whether nothing of any kind has arrived."""
        self._broker.bell.flush(5)
        return not self._redis.keys("dramatiq:*") and not self.changes()


@pytest.fixture
def doorstep(broker: CallboardBroker, redis: Any, settings: Settings) -> Doorstep:
    """Redis as this test's broker leaves it."""
    return Doorstep(broker, redis, settings)


@pytest.fixture
def theirs(settings: Settings) -> Iterator[Engine]:
    """The caller's own engine: nothing of ours is set on it."""
    engine = create_engine(sqlalchemy_url(settings))
    yield engine
    engine.dispose()


@pytest.fixture
def session(theirs: Engine) -> Iterator[Session]:
    """The caller's session."""
    with Session(theirs) as session:
        yield session


@pytest.fixture
def connection(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """The caller's psycopg connection, in a transaction."""
    with psycopg.connect(settings.database_url) as connection:
        yield connection
        connection.rollback()


# -- on our own connection


def test_send_stores_a_row_and_rings(act: Actor, book: Book, doorstep: Doorstep) -> None:
    message = act.send(1, a="é")
    (row,) = book.rows()
    assert str(row["id"]) == message.message_id
    assert (row["status"], row["tenant_id"], row["actor"], row["queue"]) == ("PENDING", "default", "act", "default")
    assert (row["args"], row["kwargs"]) == ([1], {"a": "é"})
    assert row["message_timestamp"] == message.message_timestamp
    assert (row["dispatch"], row["offered_at"] is None) == (1, False)
    (offer,) = doorstep.offers()
    assert (offer["message_id"], offer["args"], offer["kwargs"]) == (message.message_id, [1], {"a": "é"})
    assert offer["options"][MARK]["dispatch"] == 1
    (change,) = doorstep.changes()
    assert (change["id"], change["status"], change["version"], change["t"]) == (
        message.message_id, "PENDING", 1, "default",
    )  # fmt: skip


def test_ids_are_uuid7_for_every_actor(act: Actor, order: JobActor[..., Any]) -> None:
    sent = [act.send(), act.send_with_options(), order.send(value=1), *send_many([act.message()])]
    assert {UUID(m.message_id).version for m in sent} == {7}


def test_the_rows_message_is_the_message_that_runs(act: Actor, book: Book, doorstep: Doorstep) -> None:
    """What stands in Redis now and what the relay would build from the row later are the same."""
    act.send_with_options(args=(1.5, [None]), kwargs={"k": {"n": -0.0}}, max_retries=4, pipe_ignore=True)
    (offer,) = doorstep.offers()
    (row,) = book.rows()
    assert [offer["args"], offer["kwargs"]] == [row["args"], row["kwargs"]]
    assert {k: v for k, v in offer["options"].items() if k not in (MARK, "redis_message_id")} == row["options"]
    assert row["options"] == {"max_retries": 4, "pipe_ignore": True}
    assert row["max_attempts"] == 5


def test_the_same_message_again_is_the_same_job(
    act: Actor, broker: CallboardBroker, book: Book, doorstep: Doorstep
) -> None:
    message = act.message(1)
    first, second = broker.enqueue(message), broker.enqueue(message)
    assert first.message_id == second.message_id == message.message_id
    assert [row["version"] for row in book.rows()] == [1]
    assert len(doorstep.offers()) == 1


def test_a_foreign_id_becomes_a_uuid_and_is_kept(act: Actor, broker: CallboardBroker, book: Book) -> None:
    sent = broker.enqueue(act.message().copy(message_id="order-17"))
    (row,) = book.rows()
    assert str(row["id"]) == sent.message_id == str(job_id_of("order-17")[0])
    assert row["options"]["original_message_id"] == "order-17"


def test_one_tick_is_one_job_however_many_schedulers_send_it(act: Actor, book: Book) -> None:
    act.send_with_options(scheduled_at="2026-03-01T09:00:00+01:00")
    act.send_with_options(scheduled_at="2026-03-01T08:00:00+00:00")
    act.send_with_options(scheduled_at="2026-03-01T08:01:00+00:00")
    rows = book.rows()
    assert len(rows) == 2
    assert [row["options"] for row in rows] == [{}, {}], "a tick's retries are never skipped as too old"


@pytest.mark.parametrize("delay", [90_000, timedelta(seconds=90)])
def test_a_delayed_job_waits_in_postgres(act: Actor, book: Book, doorstep: Doorstep, delay: Any) -> None:
    act.send_with_options(delay=delay)
    (row,) = book.rows()
    assert row["run_at"] - row["created_at"] == timedelta(seconds=90)
    assert (row["dispatch"], row["offered_at"]) == (0, None)
    assert doorstep.offers() == []
    assert len(doorstep.changes()) == 1, "the board shows it all the same"


def test_a_wait_longer_than_redis_keeps_messages(act: Actor, book: Book) -> None:
    act.send_with_options(delay=timedelta(days=400))
    (row,) = book.rows()
    assert row["run_at"] - row["created_at"] == timedelta(days=400)


def test_run_at(act: Actor, book: Book, doorstep: Doorstep) -> None:
    later, past = datetime(2040, 1, 2, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
    act.send_with_options(run_at=later)
    due = act.send_with_options(run_at=past)
    assert [row["run_at"] for row in book.rows()] == [later, past]
    assert doorstep.jobs() == [UUID(due.message_id)]


@pytest.mark.parametrize(("priority", "band"), [(-10, -1), (-1, -1), (0, 0), (1, 1), (10, 1)])
def test_a_priority_chooses_its_list(act: Actor, book: Book, doorstep: Doorstep, priority: int, band: int) -> None:
    message = act.send_with_options(priority=priority)
    assert [(row["priority"], row["band"]) for row in book.rows()] == [(priority, band)]
    assert doorstep.jobs(band=band) == [UUID(message.message_id)]


@pytest.mark.parametrize(("declared", "stored"), [(-5, -5), (3, 3), (500, 10), (-500, -10)])
def test_an_actors_own_priority_holds_unless_the_sender_names_one(
    broker: CallboardBroker, book: Book, declared: int, stored: int
) -> None:
    @dramatiq.actor(broker=broker, priority=declared)
    def declares() -> None: ...

    declares.send()
    declares.send_with_options(priority=0)
    assert [row["priority"] for row in book.rows()] == [stored, 0]


class Always:
    """Wants another attempt, whatever happened; has the same name in every process."""

    def __call__(self, *_: Any) -> bool:
        return True

    def __repr__(self) -> str:
        return "Always()"


@pytest.mark.parametrize(
    ("declared", "sent", "attempts"),
    [
        ({}, {}, 21),  # Dramatiq's own default of 20 retries
        ({"max_retries": 2}, {}, 3),
        ({"max_retries": None}, {}, None),
        ({"retry_when": Always()}, {}, None),
        ({"max_retries": 2}, {"max_retries": 7}, 8),
        ({"max_retries": 2}, {"max_attempts": 4}, 4),
        ({}, {"max_retries": 0}, 1),
        ({}, {"max_retries": -1}, 1),  # none would be a job that nobody may claim and nobody ends
    ],
    ids=str,
)
def test_attempts(
    broker: CallboardBroker, book: Book, declared: dict[str, Any], sent: dict[str, Any], attempts: int | None
) -> None:
    @dramatiq.actor(broker=broker, **declared)
    def declares() -> None: ...

    declares.send_with_options(**sent)
    assert [row["max_attempts"] for row in book.rows()] == [attempts]


def test_a_job_types_attempts_are_the_settings(order: JobActor[..., Any], book: Book, settings: Settings) -> None:
    order.send(value=1)
    assert [row["max_attempts"] for row in book.rows()] == [settings.max_attempts] == [3]


@pytest.mark.parametrize("retries", ["many", float("nan"), 2**40, []], ids=repr)
def test_retries_that_cannot_be_counted_are_refused(act: Actor, book: Book, doorstep: Doorstep, retries: Any) -> None:
    with pytest.raises(CallboardError):
        act.send_with_options(max_retries=retries)
    assert book.rows() == []
    assert doorstep.is_empty()


def test_other_middleware_sees_the_message_first_and_its_options_are_kept(
    act: Actor, broker: CallboardBroker, book: Book, doorstep: Doorstep
) -> None:
    class Tracing(Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            message.options["trace"] = "t1"

    broker.add_middleware(Tracing())
    given = act.message()
    broker.enqueue(given)
    assert [row["options"] for row in book.rows()] == [{"trace": "t1"}]
    assert doorstep.offers()[0]["options"]["trace"] == "t1"
    assert given.options == {}


def test_an_unknown_tenant_is_refused(act: Actor, book: Book, doorstep: Doorstep) -> None:
    with pytest.raises(UnknownTenant, match="nobody"):
        act.send_with_options(tenant_id="nobody")
    assert book.rows() == []
    assert doorstep.is_empty()


def test_a_tenants_job(act: Actor, book: Book, doorstep: Doorstep) -> None:
    book.tenant("acme")
    act.send_with_options(tenant_id="acme")
    assert [row["tenant_id"] for row in book.rows()] == ["acme"]
    assert [change["t"] for change in doorstep.changes()] == ["acme"]


@pytest.mark.parametrize("option", ["delay", "run_at", "priority", "max_attempts", "unique_key", "tenant_id"])
def test_options_of_ours_are_checked_before_anything_is_stored(
    act: Actor, book: Book, doorstep: Doorstep, option: str
) -> None:
    wrong: dict[str, Any] = {option: object()}
    with pytest.raises(OptionRefused) as caught:
        send_many([act.message(), act.message_with_options(**wrong)])
    assert caught.value.option == option
    assert book.rows() == []
    assert doorstep.is_empty()


def test_a_payload_that_does_not_fit_is_refused(order: JobActor[..., Any], book: Book, doorstep: Doorstep) -> None:
    with pytest.raises(PayloadRefused):
        order.send(val=1)
    assert book.rows() == []
    assert doorstep.is_empty()


# -- many


def test_send_many_keeps_its_order(act: Actor, order: JobActor[..., Any], book: Book, doorstep: Doorstep) -> None:
    wanted = [act.message(0), order.message(value=1), act.message_with_options(args=(2,), delay=60_000)]
    sent = send_many(iter(wanted))
    assert [m.message_id for m in sent] == [m.message_id for m in wanted]
    rows = {str(row["id"]): row for row in book.rows()}
    assert [(rows[m.message_id]["args"], rows[m.message_id]["kwargs"]) for m in sent] == [
        ([0], {}), ([], {"value": 1}), ([2], {}),
    ]  # fmt: skip
    assert set(doorstep.jobs()) == {UUID(m.message_id) for m in sent[:2]}


def test_sending_nothing_is_nothing(broker: CallboardBroker, book: Book) -> None:
    assert send_many([]) == []
    assert book.rows() == []


def test_many_are_all_or_none(act: Actor, book: Book, doorstep: Doorstep) -> None:
    with pytest.raises(UnknownTenant):
        send_many([act.message(), act.message_with_options(tenant_id="nobody"), act.message()])
    assert book.rows() == []
    assert doorstep.is_empty()


def test_two_thousand_at_once(act: Actor, book: Book, doorstep: Doorstep) -> None:
    sent = send_many(act.message(n) for n in range(2000))
    assert [row["args"] for row in book.rows()] == [[n] for n in range(2000)]
    assert doorstep.jobs() == [UUID(m.message_id) for m in sent]


def test_asend_many_leaves_the_loop_free(act: Actor, book: Book, theirs: Engine) -> None:
    """While Postgres makes the sender wait for a key, the loop goes on."""
    with Session(theirs) as holder:
        send_many([act.message_with_options(unique_key="k")], session=holder)
        released = threading.Event()

        async def scenario() -> list[Message[Any]]:
            sending = asyncio.create_task(asend_many([act.message_with_options(unique_key="k")]))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            assert not done, "it did not wait for the key"
            holder.rollback()
            released.set()
            return await sending

        sent = asyncio.run(scenario())
    assert released.is_set()
    assert [str(row["id"]) for row in book.rows()] == [sent[0].message_id]


# -- unique keys


def keyed(act: Actor, key: str = "k", **options: Any) -> Message[Any]:
    return act.message_with_options(unique_key=key, **options)


def test_the_second_sender_gets_the_first_job(act: Actor, book: Book, doorstep: Doorstep) -> None:
    first = act.send_with_options(unique_key="k")
    second = act.send_with_options(unique_key="k")
    assert second.message_id == first.message_id
    assert second.options["duplicate"] is True
    assert "duplicate" not in first.options
    assert [str(row["id"]) for row in book.rows()] == [first.message_id]
    assert len(doorstep.offers()) == len(doorstep.changes()) == 1


def test_thirty_two_threads_make_one_job(act: Actor, book: Book) -> None:
    barrier = threading.Barrier(32)

    def send() -> Message[Any]:
        barrier.wait(20)
        return act.send_with_options(unique_key="k")

    with ThreadPoolExecutor(32) as pool:
        sent = [future.result(30) for future in [pool.submit(send) for _ in range(32)]]
    (row,) = book.rows()
    assert {m.message_id for m in sent} == {str(row["id"])}
    assert sum("duplicate" not in m.options for m in sent) == 1


def test_duplicates_in_bulk(act: Actor, book: Book) -> None:
    holder = act.send_with_options(unique_key="taken")
    sent = send_many([keyed(act, "new"), keyed(act, "taken"), act.message(), keyed(act, "new")])
    assert [bool(m.options.get("duplicate")) for m in sent].count(True) == 2
    assert sent[1].message_id == holder.message_id
    assert sent[0].message_id == sent[3].message_id
    assert len(book.rows()) == 3


def test_bulks_in_opposite_order_do_not_deadlock(act: Actor, book: Book) -> None:
    keys = [f"k{n:02}" for n in range(40)]

    def send(order: list[str]) -> list[list[str]]:
        return [[m.message_id for m in send_many([keyed(act, f"{k} {n}") for k in order])] for n in range(10)]

    with ThreadPoolExecutor(4) as pool:
        orders = [keys, keys[::-1], keys, keys[::-1]]
        told = [future.result(30) for future in [pool.submit(send, order) for order in orders]]
    assert len(book.rows()) == 400
    assert told[0] == told[2] == [ids[::-1] for ids in told[1]]


def test_an_expired_period_is_taken_over(act: Actor, book: Book) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_scope": "period", "unique_for": timedelta(hours=1)}
    first = act.send_with_options(**options)
    assert act.send_with_options(**options).message_id == first.message_id
    book.change(UUID(first.message_id), unique_until=text("now() - interval '1 s'"))
    second = act.send_with_options(**options)
    assert second.message_id != first.message_id
    assert act.send_with_options(**options).message_id == second.message_id


def test_a_key_that_a_transaction_holds_is_busy_after_two_seconds(
    act: Actor, book: Book, session: Session, doorstep: Doorstep
) -> None:
    send_many([keyed(act)], session=session)
    before = time.monotonic()
    with pytest.raises(UniqueKeyBusy):
        act.send_with_options(unique_key="k")
    assert KEY_WAIT_S[0] < time.monotonic() - before < KEY_WAIT_S[1]
    assert book.rows() == []
    assert doorstep.is_empty()
    session.commit()
    assert act.send_with_options(unique_key="k").options["duplicate"]


# -- in a SQLAlchemy session


def test_a_commit_makes_the_job_and_rings(act: Actor, book: Book, session: Session, doorstep: Doorstep) -> None:
    (message,) = send_many([act.message(1)], session=session)
    assert book.rows() == []
    assert doorstep.is_empty()
    session.commit()
    assert [str(row["id"]) for row in book.rows()] == [message.message_id]
    assert doorstep.jobs() == [UUID(message.message_id)]
    assert len(doorstep.changes()) == 1


def test_a_rollback_leaves_nothing_anywhere(act: Actor, book: Book, session: Session, doorstep: Doorstep) -> None:
    send_many([act.message(1)], session=session)
    session.rollback()
    session.execute(select(1))
    session.commit()
    assert book.rows() == []
    assert doorstep.is_empty()


def test_a_closed_session_leaves_nothing_anywhere(act: Actor, book: Book, theirs: Engine, doorstep: Doorstep) -> None:
    with Session(theirs) as session:
        send_many([act.message(1)], session=session)
    assert book.rows() == []
    assert doorstep.is_empty()


def test_a_released_savepoint_does_not_ring(act: Actor, book: Book, session: Session, doorstep: Doorstep) -> None:
    with session.begin_nested():
        send_many([act.message(1)], session=session)
        with session.begin_nested():
            send_many([act.message(2)], session=session)
    assert doorstep.is_empty(), "nobody can see these rows yet"
    session.commit()
    assert len(doorstep.offers()) == len(book.rows()) == 2


def test_a_rollback_after_a_released_savepoint_leaves_nothing(
    act: Actor, book: Book, session: Session, doorstep: Doorstep
) -> None:
    with session.begin_nested():
        send_many([act.message(1)], session=session)
    session.rollback()
    assert book.rows() == []
    assert doorstep.is_empty()


def test_what_a_rolled_back_savepoint_sent_never_was(
    act: Actor, book: Book, session: Session, doorstep: Doorstep
) -> None:
    """Neither a message without a row for the workers, nor a job that does not exist for the browsers."""
    (kept,) = send_many([act.message("kept")], session=session)
    savepoint = session.begin_nested()
    send_many([act.message("dropped")], session=session)
    savepoint.rollback()
    session.commit()
    assert [row["args"] for row in book.rows()] == [["kept"]]
    assert doorstep.jobs() == [UUID(kept.message_id)]
    assert [change["id"] for change in doorstep.changes()] == [kept.message_id]


def test_an_inner_savepoint_takes_what_was_sent_in_it_and_nothing_else(
    act: Actor, book: Book, session: Session, doorstep: Doorstep
) -> None:
    outer = session.begin_nested()
    send_many([act.message("outer")], session=session)
    with session.begin_nested():
        send_many([act.message("released, then undone")], session=session)
    outer.rollback()
    (kept,) = send_many([act.message("after")], session=session)
    session.commit()
    assert [row["args"] for row in book.rows()] == [["after"]]
    assert doorstep.jobs() == [UUID(kept.message_id)]


def test_a_session_that_joined_an_outer_transaction_rings_when_that_commits_or_not_at_all(
    act: Actor, book: Book, theirs: Engine, doorstep: Doorstep
) -> None:
    """``session.commit()`` is not the end here: the usual set-up of a test suite, and of some frameworks."""
    with theirs.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            send_many([act.message(1)], session=session)
            session.commit()
        assert doorstep.is_empty()
        outer.rollback()
    assert book.rows() == []
    assert doorstep.is_empty()


def test_the_bell_rings_once_per_commit(act: Actor, book: Book, session: Session, doorstep: Doorstep) -> None:
    for number in range(3):
        send_many([act.message(number)], session=session)
        session.commit()
        assert len(doorstep.changes()) == number + 1
    session.execute(select(1))
    session.commit()
    assert len(doorstep.offers()) == len(doorstep.changes()) == len(book.rows()) == 3


def test_session_begin_and_sessionmaker_begin(act: Actor, book: Book, theirs: Engine, doorstep: Doorstep) -> None:
    with Session(theirs) as session, session.begin():
        send_many([act.message(1)], session=session)
    with sessionmaker(theirs).begin() as session:
        send_many([act.message(2)], session=session)
    with contextlib.suppress(ZeroDivisionError), sessionmaker(theirs).begin() as session:
        send_many([act.message(3)], session=session)
        raise ZeroDivisionError
    assert [row["args"] for row in book.rows()] == [[1], [2]]
    assert len(doorstep.offers()) == 2


def test_a_scoped_session(act: Actor, book: Book, theirs: Engine, doorstep: Doorstep) -> None:
    registry = scoped_session(sessionmaker(theirs))
    send_many([act.message(1)], session=registry)
    registry.commit()
    send_many([act.message(2)], session=registry)
    registry.remove()
    assert [row["args"] for row in book.rows()] == [[1]]
    assert len(doorstep.offers()) == 1


def test_using_a_session(order: JobActor[..., Any], book: Book, session: Session, doorstep: Doorstep) -> None:
    order.using(session).send(value=1)
    order.using(session).send_with_options(kwargs={"value": 2}, delay=60_000)
    assert book.rows() == []
    session.commit()
    assert [row["kwargs"] for row in book.rows()] == [{"value": 1}, {"value": 2}]
    assert len(doorstep.offers()) == 1


def test_what_is_pushed_after_a_commit_is_what_was_sent(
    act: Actor, book: Book, session: Session, doorstep: Doorstep
) -> None:
    """The caller may go on using its list: the row and the message were settled by ``send``."""
    basket: list[Any] = ["apple"]
    send_many([act.message(basket)], session=session)
    basket.append("banana")
    session.commit()
    assert [row["args"] for row in book.rows()] == [[["apple"]]]
    assert [offer["args"] for offer in doorstep.offers()] == [[["apple"]]]


def test_a_commit_does_not_fail_because_the_caller_spoilt_its_arguments(
    act: Actor, book: Book, session: Session
) -> None:
    basket: list[Any] = ["apple"]
    send_many([act.message(basket)], session=session)
    basket.append({1, 2})
    session.commit()
    assert [row["args"] for row in book.rows()] == [[["apple"]]]


def test_a_refusal_leaves_the_session_as_it_was(act: Actor, book: Book, session: Session, doorstep: Doorstep) -> None:
    """Who catches the error and commits has none of the refused jobs."""
    send_many([act.message("before")], session=session)
    with pytest.raises(UnknownTenant):
        send_many([act.message("refused"), act.message_with_options(tenant_id="nobody")], session=session)
    send_many([act.message("after")], session=session)
    session.commit()
    assert [row["args"] for row in book.rows()] == [["before"], ["after"]]
    assert len(doorstep.offers()) == 2


@pytest.fixture
def holder(act: Actor, theirs: Engine) -> Iterator[Session]:
    """An open transaction that holds the key k."""
    with Session(theirs) as session:
        send_many([keyed(act)], session=session)
        yield session


def test_a_busy_key_leaves_the_callers_session_usable(
    act: Actor, book: Book, session: Session, holder: Session, doorstep: Doorstep
) -> None:
    session.execute(text("SET lock_timeout = '7s'"))
    send_many([act.message("before")], session=session)
    before = time.monotonic()
    with pytest.raises(UniqueKeyBusy):
        send_many([act.message("refused"), keyed(act)], session=session)
    assert KEY_WAIT_S[0] < time.monotonic() - before < KEY_WAIT_S[1]
    assert session.execute(text("SHOW lock_timeout")).scalar_one() == "7s"
    send_many([act.message("after")], session=session)
    session.commit()
    assert [row["args"] for row in book.rows()] == [["before"], ["after"]]
    assert len(doorstep.offers()) == 2
    holder.rollback()


@pytest.mark.parametrize("setting", ["SET lock_timeout = '7s'", "SET LOCAL lock_timeout = '9s'", "SELECT 1"])
def test_a_keyed_send_leaves_the_lock_timeout_as_it_was(act: Actor, session: Session, setting: str) -> None:
    session.execute(text(setting))
    before = session.execute(text("SHOW lock_timeout")).scalar_one()
    send_many([keyed(act)], session=session)
    assert session.execute(text("SHOW lock_timeout")).scalar_one() == before


def test_the_end_of_the_holders_transaction_decides_who_has_the_key(
    act: Actor, book: Book, session: Session, holder: Session
) -> None:
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(send_many, [keyed(act)], session)
        wait_for(lambda: waiting_for_locks(book), what="the second sender waits")
        holder.commit()
        (message,) = second.result(10)
    assert message.options["duplicate"]
    assert [str(row["id"]) for row in book.rows()] == [message.message_id]


def waiting_for_locks(book: Book) -> bool:
    """Whether a session of this database waits for another."""
    activity = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(book.execute(text(activity)))


def test_two_transactions_that_take_two_keys_crosswise_get_our_error(act: Actor, book: Book, theirs: Engine) -> None:
    """Postgres sees a deadlock after a second; to the callers it is a busy key, and they may go on."""
    with Session(theirs) as one, Session(theirs) as two, ThreadPoolExecutor(2) as pool:
        send_many([keyed(act, "a")], session=one)
        send_many([keyed(act, "b")], session=two)

        def crosswise(session: Session, key: str) -> str:
            try:
                send_many([keyed(act, key)], session=session)
            except UniqueKeyBusy:
                session.execute(select(1))
                session.rollback()
                return "busy"
            session.rollback()
            return "sent"

        ends = [pool.submit(crosswise, one, "b"), pool.submit(crosswise, two, "a")]
        assert "busy" in [end.result(20) for end in ends]
    assert book.rows() == []


# -- on a psycopg connection


def test_a_psycopg_transaction(
    act: Actor, broker: CallboardBroker, book: Book, connection: psycopg.Connection[Any], doorstep: Doorstep
) -> None:
    (message,) = send_many([act.message(1)], session=connection)
    assert book.rows() == []
    connection.commit()
    assert [str(row["id"]) for row in book.rows()] == [message.message_id]
    assert doorstep.is_empty(), "nobody tells us of this commit: the relay rings"
    assert Relay(broker).run_once() == 1
    assert doorstep.jobs() == [UUID(message.message_id)]


def test_a_psycopg_rollback_leaves_nothing(
    act: Actor, broker: CallboardBroker, book: Book, connection: psycopg.Connection[Any], doorstep: Doorstep
) -> None:
    send_many([act.message(1)], session=connection)
    connection.rollback()
    assert Relay(broker).run_once() == 0
    assert book.rows() == []
    assert doorstep.is_empty()


@pytest.mark.parametrize("factory", [psycopg.Cursor, psycopg.ClientCursor])
def test_the_callers_own_cursors_stay_the_callers(
    act: Actor, book: Book, connection: psycopg.Connection[Any], factory: Any
) -> None:
    connection.cursor_factory = factory
    before = connection.row_factory
    holder, other = send_many([keyed(act), act.message("é")], session=connection)
    (duplicate,) = send_many([keyed(act)], session=connection)
    assert duplicate.message_id == holder.message_id
    assert connection.row_factory is before
    connection.commit()
    assert {str(row["id"]) for row in book.rows()} == {holder.message_id, other.message_id}


def test_a_busy_key_on_a_psycopg_connection(
    act: Actor, book: Book, connection: psycopg.Connection[Any], holder: Session
) -> None:
    connection.execute("SET lock_timeout = '8s'")
    send_many([act.message("before")], session=connection)
    before = time.monotonic()
    with pytest.raises(UniqueKeyBusy):
        send_many([keyed(act)], session=connection)
    assert KEY_WAIT_S[0] < time.monotonic() - before < KEY_WAIT_S[1]
    assert connection.execute("SHOW lock_timeout").fetchone() == ("8s",)
    connection.commit()
    assert [row["args"] for row in book.rows()] == [["before"]]


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_refusal_on_a_psycopg_connection_stores_none_of_them(
    act: Actor, book: Book, settings: Settings, autocommit: bool
) -> None:
    with psycopg.connect(settings.database_url, autocommit=autocommit) as connection:
        with pytest.raises(UnknownTenant):
            send_many([act.message(), act.message_with_options(tenant_id="nobody")], session=connection)
        connection.commit()
    assert book.rows() == []


# -- what is no session


def not_sessions(settings: Settings, theirs: Engine) -> dict[str, Callable[[], Any]]:
    return {
        "AsyncSession": AsyncSession,
        "AsyncConnection": lambda: asyncio.run(psycopg.AsyncConnection.connect(settings.database_url)),
        "cursor": lambda: psycopg.connect(settings.database_url).cursor(),
        "Engine": lambda: theirs,
        "text": lambda: settings.database_url,
    }


@pytest.mark.parametrize("kind", ["AsyncSession", "AsyncConnection", "cursor", "Engine", "text"])
def test_what_is_no_session_is_refused_by_name(
    act: Actor, book: Book, settings: Settings, theirs: Engine, kind: str
) -> None:
    given = not_sessions(settings, theirs)[kind]()
    try:
        with pytest.raises(TypeError, match=r"(?i)session"):
            send_many([act.message()], session=given)
    finally:
        if kind == "cursor":
            given.connection.close()
        elif kind == "AsyncConnection":
            asyncio.run(given.close())
    assert book.rows() == []


# -- another schema


@pytest.fixture
def moved(module_database: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Callboard's tables lie in a schema of another name."""
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute("ALTER SCHEMA callboard RENAME TO elsewhere")
        try:
            monkeypatch.setenv("CALLBOARD_DB_SCHEMA", "elsewhere")
            get_settings.cache_clear()
            yield
        finally:
            connection.execute("ALTER SCHEMA elsewhere RENAME TO callboard")


@pytest.mark.parametrize("how", ["own", "session", "psycopg"])
def test_another_schema_is_used_on_every_connection(
    moved: None, broker: CallboardBroker, settings: Settings, theirs: Engine, how: str
) -> None:
    def act() -> None: ...

    actor: Actor = dramatiq.actor(broker=broker)(act)
    messages = [keyed(actor), actor.message(), keyed(actor)]
    if how == "own":
        send_many(messages)
    elif how == "session":
        with sessionmaker(theirs).begin() as session:
            send_many(messages, session=session)
    else:
        with psycopg.connect(settings.database_url) as connection:
            send_many(messages, session=connection)
    with psycopg.connect(settings.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM elsewhere.jobs").fetchone() == (2,)
        connection.execute("DELETE FROM elsewhere.jobs")


def test_without_our_tables_the_sender_is_told_what_to_do(
    broker: CallboardBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_DB_SCHEMA", "nowhere")
    get_settings.cache_clear()

    def act() -> None: ...

    with pytest.raises(RuntimeError, match="migrate"):
        dramatiq.actor(broker=broker)(act).send()


# -- without Redis


@pytest.fixture
def no_redis(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL names a port where nothing listens."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()


def test_without_redis_a_send_succeeds_at_once(no_redis: None, act: Actor, book: Book, session: Session) -> None:
    before = time.monotonic()
    for number in range(20):
        act.send(number)
    send_many([act.message("session")], session=session)
    session.commit()
    assert time.monotonic() - before < 2
    assert len(book.rows()) == 21


def test_what_redis_did_not_hear_the_relay_says(
    no_redis: None, act: Actor, broker: CallboardBroker, book: Book, environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    message = act.send(1)
    broker.bell.flush(5)
    broker.close()
    monkeypatch.setenv("REDIS_URL", environment["REDIS_URL"])
    get_settings.cache_clear()
    book.change(UUID(message.message_id), offered_at=text("now() - interval '1 min'"))
    assert Relay(broker).run_once() == 1
    with redis_py.Redis.from_url(environment["REDIS_URL"]) as redis:
        assert redis.lrange(list_key("default", 0), 0, -1) == [f"{message.message_id}.2".encode()]


def test_a_redis_that_does_not_answer_costs_the_sender_nothing(
    act: Actor, book: Book, redis: Any, doorstep: Doorstep
) -> None:
    redis.execute_command("CLIENT", "PAUSE", "1500", "ALL")
    before = time.monotonic()
    act.send(1)
    assert time.monotonic() - before < 1
    assert len(book.rows()) == 1


# -- forks


def in_child(task: Callable[[], None], deadline_s: float = 15.0) -> int:
    """Run a task in a forked child; returns its exit code (negative: it was killed, because it hung)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "fork in a process with threads": that is the point
        child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        finally:
            os._exit(code)

    def ended() -> list[int]:
        pid, status = os.waitpid(child, os.WNOHANG)
        return [os.waitstatus_to_exitcode(status)] if pid else []

    try:
        return wait_for(ended, deadline_s)[0]
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -signal.SIGKILL


def test_a_forked_child_sends_and_so_does_its_parent(
    act: Actor, broker: CallboardBroker, book: Book, doorstep: Doorstep
) -> None:
    act.send("before")
    broker.bell.flush(5)

    def task() -> None:
        act.send("child")
        assert broker.bell.flush(5)

    assert in_child(task) == 0
    act.send("after")
    assert [row["args"] for row in book.rows()] == [["before"], ["child"], ["after"]]
    assert [offer["args"] for offer in doorstep.offers()] == [["before"], ["child"], ["after"]]


def test_a_child_does_not_say_what_its_parent_had_to_say(
    act: Actor, broker: CallboardBroker, book: Book, redis: Any, doorstep: Doorstep
) -> None:
    redis.execute_command("CLIENT", "PAUSE", "300", "WRITE")
    act.send("parent")

    def task() -> None:
        act.send("child")
        broker.bell.flush(5)

    assert in_child(task) == 0
    assert len(book.rows()) == 2
    assert len(doorstep.offers()) <= 2


def test_children_forked_while_other_threads_send(act: Actor, broker: CallboardBroker, book: Book) -> None:
    stop = threading.Event()

    def send_from_child() -> None:
        act.send("child")

    def busy() -> None:
        while not stop.is_set():
            act.send("thread")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_child(send_from_child, 10) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 8
    assert sum(row["args"] == ["child"] for row in book.rows()) == 8


def test_a_child_forked_while_another_thread_connects(act: Actor, broker: CallboardBroker, book: Book) -> None:
    """The lock that this thread holds has no owner in the child."""
    act.send("before")
    holding, done = threading.Event(), threading.Event()
    make = broker.resources._make_redis

    def slow() -> Any:
        holding.set()
        done.wait(20)
        return make()

    def send_from_child() -> None:
        act.send("child")

    broker.resources._make_redis = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: broker.resources.redis)
    thread.start()
    holding.wait(10)
    try:
        assert in_child(send_from_child, 5) == 0
    finally:
        done.set()
        thread.join()
    assert [row["args"] for row in book.rows()] == [["before"], ["child"]]


def test_multiprocessing_by_fork(act: Actor, broker: CallboardBroker, book: Book) -> None:
    act.send("before")
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        processes = [context.Process(target=act.send, args=[n]) for n in range(4)]
        for process in processes:
            process.start()
    for process in processes:
        process.join(15)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(row["args"][0] for row in book.rows() if row["args"] != ["before"]) == [0, 1, 2, 3]


# -- data that cannot be kept


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


HAZARDS: dict[str, Callable[[], Any]] = {
    "NUL": lambda: "a\0b",
    "lone surrogate": lambda: "\ud800",
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "1e400": lambda: [1e400],
    "set": lambda: {1, 2},
    "bytes": lambda: b"x",
    "5,000 digits": lambda: 10**5000 - 1,
    "depth 10,000": lambda: deep(10_000),
    "depth 100,000": lambda: deep(100_000),
    "10 MB": lambda: "x" * 10_000_000,
    "NUL in a key": lambda: {"a\0": 1},
    "itself": lambda: [None],
}


def hazard(name: str) -> Any:
    value = HAZARDS[name]()
    if name == "itself":
        value[0] = value
    return value


PLACES: dict[str, Callable[[Actor, JobActor[..., Any], Any], Message[Any]]] = {
    "args": lambda act, order, value: act.message(1, value),
    "kwargs": lambda act, order, value: act.message(a=1, b=value),
    "options": lambda act, order, value: act.message_with_options(note=value),
    "payload": lambda act, order, value: order.message(value=value),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HAZARDS)
def test_data_that_cannot_be_kept_is_refused_and_nothing_stored(
    act: Actor,
    order: JobActor[..., Any],
    broker: CallboardBroker,
    book: Book,
    doorstep: Doorstep,
    name: str,
    place: str,
) -> None:
    message = PLACES[place](act, order, hazard(name))
    with pytest.raises(CallboardError, match="nothing was stored"):
        broker.enqueue(message)
    with pytest.raises(CallboardError):
        send_many([act.message("good"), message])
    assert book.rows() == []
    assert doorstep.is_empty()


@pytest.mark.parametrize("name", HAZARDS)
def test_data_that_cannot_be_kept_does_not_spoil_the_callers_transaction(
    act: Actor, book: Book, session: Session, name: str
) -> None:
    send_many([act.message("before")], session=session)
    with pytest.raises(CallboardError):
        send_many([act.message(hazard(name))], session=session)
    session.commit()
    assert [row["args"] for row in book.rows()] == [["before"]]


@pytest.mark.parametrize(
    "value",
    ["\\u0000 in plain letters", "𝄞", "\x7f\x01", 10**299, -(10**299), 5e-324, 1.7976931348623157e308, -0.0, deep(60),
     {"": {"": None}}, "x" * 1_000_000],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_data_at_the_edge_is_kept_as_it_was_sent(act: Actor, book: Book, doorstep: Doorstep, value: Any) -> None:
    act.send(value)
    (row,) = book.rows()
    (offer,) = doorstep.offers()
    assert repr(row["args"]) == repr(offer["args"]) == repr([value])


def test_a_row_is_never_taken_by_another_tenants_key(act: Actor, book: Book) -> None:
    book.tenant("acme")
    ours, acmes = act.send_with_options(unique_key="k"), act.send_with_options(unique_key="k", tenant_id="acme")
    assert ours.message_id != acmes.message_id
    with pytest.raises(IntegrityError):
        book.change(UUID(acmes.message_id), tenant_id="default")


def test_ids_are_never_reused_across_tenants(act: Actor, broker: CallboardBroker, book: Book) -> None:
    """A message id that another tenant's job has changes nothing of that job."""
    book.tenant("acme")
    job = str(uuid4())
    broker.enqueue(act.message_with_options(tenant_id="acme").copy(message_id=job))
    broker.enqueue(act.message("mine").copy(message_id=job))
    assert [(row["tenant_id"], row["args"]) for row in book.rows()] == [("acme", [])]
    assert book.execute(select(jobs.c.id).where(jobs.c.tenant_id == "default")) == []


def test_a_connection_that_died_in_the_pool_costs_no_send(broker: CallboardBroker, act: Actor, engine: Engine) -> None:
    """As after a restart of Postgres: the pool holds connections that nobody has noticed to be dead."""
    assert act.send().message_id
    with engine.connect() as connection:
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        connection.exec_driver_sql(f"{cut} AND pid <> pg_backend_pid()")
    sent = act.send()
    with engine.connect() as connection:
        assert sent.message_id in {str(row.id) for row in connection.execute(select(jobs.c.id))}
