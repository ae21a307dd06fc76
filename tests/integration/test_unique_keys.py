"""One live job per unique key, whoever sends, how many at once, and whatever state the holder is in."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import pytest
from dramatiq import Message
from sqlalchemy import text
from sqlalchemy.orm import Session

from actors.runtime import sending
from actors.runtime.broker import CallboardBroker
from actors.runtime.sending import send_many
from models.engine import transaction
from tests.integration import ledger_support
from tests.integration.ledger_support import Book
from tests.support import wait_for

module_database, database_url = ledger_support.module_database, ledger_support.database_url

Actor = dramatiq.Actor[..., Any]

SCOPES: dict[str, dict[str, Any]] = {
    "live": {},
    "waiting": {"unique_scope": "waiting"},
    "period": {"unique_scope": "period", "unique_for": timedelta(hours=1)},
}


@pytest.fixture
def act(broker: CallboardBroker) -> Actor:
    """An actor that takes anything."""

    def act(*args: Any, **kwargs: Any) -> None: ...

    return dramatiq.actor(act, broker=broker)  # type: ignore[call-overload, no-any-return]


def keyed(act: Actor, key: str = "k", **options: Any) -> Message[Any]:
    return act.message_with_options(unique_key=key, **options)


def is_duplicate(message: Message[Any]) -> bool:
    return bool(message.options.get("duplicate"))


# -- the holder's states


def waits(book: Book, job: UUID) -> None:
    """It was just sent."""


def is_scheduled(book: Book, job: UUID) -> None:
    book.change(job, run_at=text("now() + interval '1 hour'"))


def runs(book: Book, job: UUID) -> UUID:
    token = uuid4()
    assert book.claim(job, book.worker(), token)
    return token


def waits_to_retry(book: Book, job: UUID) -> None:
    (row,) = book.fail(job, runs(book, job), delay_ms=3_600_000)
    assert row["status"] == "PENDING"


def is_to_be_cancelled(book: Book, job: UUID) -> None:
    runs(book, job)
    (row,) = book.cancel(job)
    assert row["status"] == "RUNNING"


def was_given_back(book: Book, job: UUID) -> None:
    (row,) = book.give_back(job, runs(book, job))
    assert row["status"] == "PENDING"


def was_lost(book: Book, job: UUID) -> None:
    worker = book.worker()
    book.claim(job, worker)
    book.kill(worker)
    (row,) = book.rescue()
    assert row["status"] == "PENDING"


def has_completed(book: Book, job: UUID) -> None:
    book.complete(job, runs(book, job))


def has_failed(book: Book, job: UUID) -> None:
    (row,) = book.fail(job, runs(book, job), "fail")
    assert row["status"] == "FAILED"


def was_cancelled(book: Book, job: UUID) -> None:
    (row,) = book.cancel(job)
    assert row["status"] == "CANCELLED"


#: state → the scopes whose key a job in that state holds.
STATES: dict[Callable[[Book, UUID], object], set[str]] = {
    waits: {"live", "waiting", "period"},
    is_scheduled: {"live", "waiting", "period"},
    runs: {"live", "period"},
    waits_to_retry: {"live", "period"},
    is_to_be_cancelled: {"live", "period"},
    was_given_back: {"live", "period"},
    was_lost: {"live", "period"},
    has_completed: {"period"},
    has_failed: {"period"},
    was_cancelled: {"period"},
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_key_is_held_in_these_states_and_in_no_other(
    act: Actor, book: Book, state: Callable[[Book, UUID], object]
) -> None:
    for scope, options in SCOPES.items():
        key = f"{scope} key"
        first = act.send_with_options(unique_key=key, **options)
        state(book, UUID(first.message_id))
        for second in (act.send_with_options(unique_key=key, **options), send_many([keyed(act, key, **options)])[0]):
            assert is_duplicate(second) is (scope in STATES[state]) or second.message_id != first.message_id, scope
        live = [row for row in book.rows() if row["unique_key"] == key and row["unique_slot"]]
        assert len(live) == 1, "one job holds the key"
        assert (second.message_id == first.message_id) is (scope in STATES[state]), scope
        assert is_duplicate(second), "of the first, or of the one sent after it"


def test_a_delayed_holder_is_found_by_its_own_option(act: Actor) -> None:
    first = act.send_with_options(unique_key="k", delay=3_600_000)
    assert act.send_with_options(unique_key="k").message_id == first.message_id


# -- many senders


def together(number: int, send: Callable[[int], list[Message[Any]]]) -> list[list[Message[Any]]]:
    """What each of so many threads sent, all starting at once."""
    barrier = threading.Barrier(number)

    def start(each: int) -> list[Message[Any]]:
        barrier.wait(30)
        return send(each)

    with ThreadPoolExecutor(number) as pool:
        return [future.result(60) for future in [pool.submit(start, each) for each in range(number)]]


def test_thirty_two_bulks_of_overlapping_keys_make_one_job_each(act: Actor, book: Book) -> None:
    keys = [f"k{n:02}" for n in range(30)]

    def send(number: int) -> list[Message[Any]]:
        mine = random.Random(number).choices(keys, k=40)  # some of them twice
        return send_many([keyed(act, key) for key in mine] if number % 4 else [keyed(act, keys[0])])

    told = [message for messages in together(32, send) for message in messages]
    rows = book.rows()
    assert len(rows) == len({row["unique_key"] for row in rows}) == len({message.message_id for message in told})
    assert sum(not is_duplicate(message) for message in told) == len(rows)


def test_every_bulk_takes_its_keys_in_one_order(book: Book) -> None:
    """By key and tenant; in the order of ids, which each sender makes anew, two bulks could wait for each other."""
    book.tenant("acme")
    keys = [("b", "default"), ("b", "acme"), ("a", "default"), ("c", "acme"), ("a", "acme")]
    for order in (keys, keys[::-1]):
        with book.transaction() as book.on:
            rows = book.enqueue(
                unique_key=[key for key, _ in order], tenant_id=[owner for _, owner in order], unique_scope="live"
            )
            names = [(book.row(row["id"])["unique_key"], row["tenant_id"]) for row in rows]
            assert names == sorted(keys)
            book.on.rollback()
        book.on = None


def test_a_bulk_that_meets_a_deadlock_is_sent_again(act: Actor, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder of "a" ends while the first bulk has "b" and asks who holds "a": the second bulk gets "a" and waits
    for "b", and the first must have "a" after all."""
    holder, token = book.running(unique_key="a", unique_scope="live")
    resolve, asked = sending._resolve, threading.Event()
    second: list[list[Message[Any]]] = []
    thread = threading.Thread(target=lambda: second.append(send_many([keyed(act, "a"), keyed(act, "b")])))

    def slow(*given: Any) -> Any:
        if not asked.is_set():
            asked.set()
            book.complete(holder, token)
            thread.start()
            wait_for(lambda: is_waiting(book), what="the second bulk waits for b")
        return resolve(*given)

    monkeypatch.setattr(sending, "_resolve", slow)
    first = send_many([keyed(act, "a"), keyed(act, "b")])
    thread.join(30)
    assert [m.message_id for m in first] == [m.message_id for m in second[0]]
    assert len(book.rows()) == 3


def is_waiting(book: Book) -> bool:
    with book.engine.connect() as connection:
        found = connection.execute(
            text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        )
        return bool(found.scalar_one())


def test_a_deadlock_in_the_callers_transaction_leaves_that_usable(
    act: Actor, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, token = book.running(unique_key="a", unique_scope="live")
    resolve, asked = sending._resolve, threading.Event()
    second: list[list[Message[Any]]] = []
    thread = threading.Thread(target=lambda: second.append(send_many([keyed(act, "a"), keyed(act, "b")])))

    def slow(*given: Any) -> Any:
        if not asked.is_set():
            asked.set()
            book.complete(holder, token)
            thread.start()
            wait_for(lambda: is_waiting(book), what="the second bulk waits for b")
        return resolve(*given)

    monkeypatch.setattr(sending, "_resolve", slow)
    with Session(transaction(book.engine)) as session, session.begin():
        send_many([act.message("before")], session=session)
        first = send_many([keyed(act, "a"), keyed(act, "b")], session=session)
    thread.join(30)
    assert [m.message_id for m in first] == [m.message_id for m in second[0]]
    assert len(book.rows()) == 4


@pytest.mark.parametrize("scope", ["waiting", "live"])
def test_a_job_that_a_sender_relies_on_is_not_claimed_before_that_sender_commits(
    act: Actor, book: Book, scope: str
) -> None:
    """Otherwise it would run without the sender's change, and nothing would run after it.

    With the scope ``live`` a second send means nothing but that a job is live, so nobody waits for it.
    """
    first = UUID(keyed_and_sent(act, scope))
    worker = book.worker()
    with Session(transaction(book.engine)) as session:
        session.execute(text("INSERT INTO callboard.tenants (id) VALUES ('the sender''s own change')"))
        assert is_duplicate(send_many([keyed(act, **SCOPES[scope])], session=session)[0])
        claimed = book.claim(first, worker)
        assert [row["id"] for row in claimed] == ([] if scope == "waiting" else [first])
        session.commit()
    if scope == "waiting":
        assert [row["id"] for row in book.claim(first, worker)] == [first]


def keyed_and_sent(act: Actor, scope: str) -> str:
    return send_many([keyed(act, **SCOPES[scope])])[0].message_id
