"""The relay and the strays: what is due reaches Redis, and again what Redis lost; nothing in Redis can stop them."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import pytest
from dramatiq import Message
from sqlalchemy import text

from actors.runtime import bell, relay
from actors.runtime.bell import push
from actors.runtime.broker import CallboardBroker
from actors.runtime.keys import acks_key, dead_letter_keys, list_key, messages_key, redis_id
from actors.runtime.messages import MARK, Offer
from actors.runtime.relay import Relay
from actors.runtime.sending import send_many
from actors.runtime.strays import Strays
from models.settings import get_settings
from tests.integration import ledger_support
from tests.integration.ledger_support import Book
from tests.integration.worker_support import stock_bytes, stock_message

module_database, database_url = ledger_support.module_database, ledger_support.database_url

DEFAULT = list_key("default", 0)


@pytest.fixture
def act(broker: CallboardBroker) -> dramatiq.Actor[..., Any]:
    """An actor of the queue ``default``."""

    def act(*args: Any, **kwargs: Any) -> None: ...

    return dramatiq.actor(broker=broker)(act)


@pytest.fixture
def bells(broker: CallboardBroker) -> Relay:
    """A relay that has already seen this Redis."""
    seen = Relay(broker)
    assert seen.run_once() == 0
    return seen


def listed(redis: Any, queue: str = "default", band: int = 0) -> list[str]:
    """The redis ids in a list."""
    return [identifier.decode() for identifier in redis.lrange(list_key(queue, band), 0, -1)]


def message_in(redis: Any, identifier: str, queue: str = "default") -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(redis.hget(messages_key(queue), identifier))
    return decoded


def offered_ago(book: Book, job: UUID, seconds: float, dispatch: int = 1) -> None:
    """As if the job had been offered that long ago; Redis knows nothing of it."""
    book.change(job, offered_at=text(f"now() - interval '{seconds} s'"), dispatch=dispatch)


# -- what is due


def test_what_is_due_is_offered_within_one_pass(bells: Relay, book: Book, redis: Any) -> None:
    job = book.job(args='[1, "é"]', kwargs='{"a": 1e22}', options='{"max_retries": 2}')
    assert bells.run_once() == 1
    assert listed(redis) == [redis_id(job, 1)]
    row, message = book.row(job), message_in(redis, redis_id(job, 1))
    assert (row["dispatch"], row["status"], row["version"]) == (1, "PENDING", 1)
    assert (message["message_id"], message["args"], message["kwargs"]) == (str(job), [1, "é"], {"a": 1e22})
    assert message["options"]["max_retries"] == 2
    offered_ms = int(row["offered_at"].timestamp() * 1000)
    assert message["options"][MARK] == {"dispatch": 1, "offered_ms": offered_ms, "band": 0}
    assert bells.run_once() == 0


def test_what_is_not_due_waits_and_what_becomes_due_goes(bells: Relay, book: Book, redis: Any) -> None:
    job = book.job(delay_ms=60_000)
    assert bells.run_once() == 0
    assert listed(redis) == []
    assert book.row(job)["offered_at"] is None
    book.change(job, run_at=text("now()"))
    assert bells.run_once() == 1


def test_a_retry_is_offered_under_the_next_number(bells: Relay, book: Book, redis: Any) -> None:
    job, token = book.running(offer=True)
    book.fail(job, token)
    assert bells.run_once() == 1
    assert listed(redis) == [redis_id(job, 2)]


def test_only_what_waits_is_offered(bells: Relay, book: Book, redis: Any) -> None:
    """Suspects are the quarantine's; running and ended jobs are nobody's."""
    suspect, cancelled = book.job(), book.job()
    book.change(suspect, suspect=True)
    book.cancel(cancelled)
    book.running()
    job, token = book.running()
    book.complete(job, token)
    for each in (suspect, cancelled, job):
        book.change(each, offered_at=None)
    assert bells.run_once() == 0
    assert listed(redis) == []


def test_every_queue_and_band_has_its_list_also_of_queues_unknown_here(bells: Relay, book: Book, redis: Any) -> None:
    ids = {(q, b): book.job(queue=q, priority=b * 5) for q in ("a", "b", "default", "z:9") for b in (-1, 0, 1)}
    assert bells.run_once() == len(ids)
    assert {where: listed(redis, *where) for where in ids} == {w: [redis_id(job, 1)] for w, job in ids.items()}


def test_the_longest_due_goes_first(bells: Relay, book: Book, redis: Any) -> None:
    ids = [book.job() for _ in range(5)]
    for age, job in enumerate([ids[3], ids[0], ids[4], ids[1], ids[2]]):
        book.change(job, run_at=text(f"now() - interval '{age + 1} s'"))
    bells.run_once()
    assert listed(redis) == [redis_id(job, 1) for job in (ids[2], ids[1], ids[4], ids[0], ids[3])]


def test_more_than_one_batch_goes_in_one_pass(bells: Relay, book: Book, redis: Any) -> None:
    number = 2 * relay.BATCH + 3
    book.enqueue(actor=["act"] * number)
    assert bells.run_once() == number
    assert redis.llen(DEFAULT) == number


def test_two_relays_at_once_offer_everything_once(broker: CallboardBroker, book: Book, redis: Any) -> None:
    book.enqueue(actor=["act"] * 2000)
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.append(Relay(broker).run_once())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    Relay(broker).run_once()
    ids = listed(redis)
    assert len(ids) == len(set(ids)) == 2000
    assert {row["dispatch"] for row in book.rows()} == {1}
    assert sum(made) <= 2000


# -- what Redis lost


def test_a_flushed_redis_has_everything_again_after_one_pass(
    bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    jobs = [UUID(m.message_id) for m in send_many([act.message(n) for n in range(3)])]
    broker.bell.flush(5)
    assert len(listed(redis)) == 3
    redis.flushdb()
    assert bells.run_once() == 3
    assert listed(redis) == [redis_id(job, 2) for job in jobs]


def test_a_lost_push_is_repeated_when_it_has_been_silent(bells: Relay, book: Book, redis: Any) -> None:
    lost, fresh = book.job(), book.job()
    offered_ago(book, lost, relay.SILENCE_S + 0.5)
    offered_ago(book, fresh, 0.5)
    assert bells.run_once() == 1
    assert listed(redis) == [redis_id(lost, 2)]


def test_what_is_lost_again_and_again_is_offered_ever_more_seldom_but_within_a_minute(
    bells: Relay, book: Book, redis: Any
) -> None:
    """A worker may hoard what it has fetched: its copy is not lost, and another one every two seconds no help."""
    early, late, old = book.job(queue="a"), book.job(queue="b"), book.job(queue="c")
    offered_ago(book, early, 3 * relay.SILENCE_S, dispatch=3)
    offered_ago(book, late, 5 * relay.SILENCE_S, dispatch=3)
    offered_ago(book, old, 61, dispatch=1000)
    assert bells.run_once() == 2
    assert [listed(redis, queue) for queue in "abc"] == [[], [redis_id(late, 4)], [redis_id(old, 1001)]]


def test_what_stands_in_the_list_is_left_alone_however_long(
    bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    """A queue without a worker."""
    jobs = [UUID(m.message_id) for m in send_many([act.message(n) for n in range(3)])]
    broker.bell.flush(5)
    for job in jobs:
        offered_ago(book, job, 3600)
    head = message_in(redis, listed(redis)[0])
    head["options"][MARK]["offered_ms"] = int((time.time() - 3600) * 1000)
    redis.hset(messages_key("default"), listed(redis)[0], json.dumps(head))
    assert bells.run_once() == 0
    assert len(listed(redis)) == 3


def test_what_the_lists_head_has_overtaken_is_offered_again(
    bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    lost, close = book.job(), book.job()
    offered_ago(book, lost, relay.OVERTAKEN_S + 2)
    offered_ago(book, close, relay.OVERTAKEN_S - 2)
    head = act.send()
    broker.bell.flush(5)
    assert bells.run_once() == 1
    assert listed(redis) == [redis_id(head.message_id, 1), redis_id(lost, 2)]


def test_bands_are_judged_each_by_its_own_list(
    bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    act.send()
    broker.bell.flush(5)
    urgent = book.job(priority=-1)
    offered_ago(book, urgent, relay.SILENCE_S + 1)
    assert bells.run_once() == 1
    assert listed(redis, band=-1) == [redis_id(urgent, 2)]


def test_an_id_without_a_message_at_the_head_is_dropped(bells: Relay, book: Book, redis: Any) -> None:
    redis.rpush(DEFAULT, "gone", "gone too")
    job = book.job()
    offered_ago(book, job, 5)
    assert bells.run_once() == 1
    assert listed(redis) == [redis_id(job, 2)]


@pytest.mark.parametrize(
    "head",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"options": null}',
        b'{"options": {"callboard": "mine"}}',
        b'{"options": {"callboard": {}}}',
        b'{"options": {"callboard": {"offered_ms": "soon"}}}',
        b'{"options": {"callboard": {"offered_ms": 1e300}}}',
        b'{"options": {"callboard": [1]}}',
    ],
    ids=repr,
)
def test_no_head_of_one_list_stops_the_others(bells: Relay, book: Book, redis: Any, head: bytes) -> None:
    redis.hset(messages_key("a"), "x", head)
    redis.rpush(list_key("a", 0), "x")
    for queue in ("a", "b"):
        offered_ago(book, book.job(queue=queue), 5)
    new = book.job(queue="c")
    bells.run_once()
    assert len(listed(redis, "b")) == 1
    assert listed(redis, "c") == [redis_id(new, 1)]


# -- full lists


@pytest.fixture
def cap(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lists hold three."""
    monkeypatch.setattr(bell, "LIST_CAP", 3)
    monkeypatch.setattr(relay, "LIST_CAP", 3)
    return 3


def test_what_finds_a_full_list_goes_back_to_the_relay(
    cap: int, bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    sent = [UUID(m.message_id) for m in send_many([act.message(n) for n in range(5)])]
    broker.bell.flush(5)
    assert listed(redis) == [redis_id(job, 1) for job in sent[:cap]]
    assert [row["offered_at"] is None for row in book.rows()] == [False, False, False, True, True]
    assert bells.run_once() == 0
    redis.lpop(DEFAULT)
    assert bells.run_once() == 1
    assert listed(redis)[-1] == redis_id(sent[3], 2)
    assert [row["offered_at"] is None for row in book.rows()] == [False, False, False, False, True]


def test_the_relay_offers_no_more_than_there_is_room_for(cap: int, bells: Relay, book: Book, redis: Any) -> None:
    book.enqueue(actor=["act"] * 5)
    assert bells.run_once() == cap
    assert sum(row["offered_at"] is None for row in book.rows()) == 2


def test_what_the_sweep_finds_no_room_for_goes_back_to_the_relay(
    cap: int, bells: Relay, broker: CallboardBroker, act: Any, book: Book, redis: Any
) -> None:
    """Counted as offered it would lose its place again and again as long as the list stays full."""
    send_many([act.message(n) for n in range(cap)])
    broker.bell.flush(5)
    lost = book.job()
    book.change(lost, run_at=text("now() - interval '1 h'"))
    offered_ago(book, lost, relay.OVERTAKEN_S + 5)
    bells.run_once()
    assert len(listed(redis)) == cap
    assert book.row(lost)["offered_at"] is None


# -- one offer is one entry


def test_the_same_offer_pushed_twice_is_one_entry(broker: CallboardBroker, redis: Any) -> None:
    offers = [Offer("default", 0, redis_id(uuid4(), 1), b"{}") for _ in range(3)]
    assert push(broker.resources, offers) == []
    assert push(broker.resources, offers) == []
    assert listed(redis) == [offer.redis_id for offer in offers]


def test_a_push_after_the_message_was_taken_and_before_it_was_acknowledged_is_no_second_entry(
    broker: CallboardBroker, redis: Any
) -> None:
    offer = Offer("default", 0, redis_id(uuid4(), 1), b"{}")
    push(broker.resources, [offer])
    redis.lpop(DEFAULT)
    push(broker.resources, [offer])
    assert listed(redis) == []


def test_a_push_says_for_which_jobs_there_was_no_room(cap: int, broker: CallboardBroker, redis: Any) -> None:
    jobs = [uuid4() for _ in range(5)]
    offers = [Offer("default", 0, redis_id(job, 1), b"{}") for job in jobs]
    assert push(broker.resources, offers[:2]) == []
    assert push(broker.resources, offers) == [str(job) for job in jobs[3:]]
    assert listed(redis) == [offer.redis_id for offer in offers[:3]]


# -- stock producers' delayed messages


def delay(redis: Any, identifier: str, data: bytes, queue: str = "default") -> None:
    """As a producer without our broker puts a delayed message down."""
    redis.hset(f"dramatiq:{queue}.DQ.msgs", identifier, data)
    redis.rpush(f"dramatiq:{queue}.DQ", identifier)


def delayed(redis: Any) -> tuple[list[bytes], int]:
    """What is left of them."""
    return redis.lrange("dramatiq:default.DQ", 0, -1), redis.hlen("dramatiq:default.DQ.msgs")


def isolated(redis: Any) -> dict[bytes, bytes]:
    """The dead letters, and that both keys name the same ones."""
    xq, messages = dead_letter_keys("default")
    letters: dict[bytes, bytes] = redis.hgetall(messages)
    assert set(redis.zrange(xq, 0, -1)) == set(letters)
    return letters


def test_a_stock_delayed_message_becomes_a_row_that_waits(act: Any, bells: Relay, book: Book, redis: Any) -> None:
    eta = int((time.time() + 3600) * 1000)
    message = stock_message("default.DQ", "act", 1, options={"eta": eta, "max_retries": 4})
    delay(redis, "stock-1", stock_bytes(message, "stock-1"))
    assert bells.run_once() == 1
    (row,) = book.rows()
    assert str(row["id"]) == message.message_id
    assert (row["queue"], row["args"], row["options"], row["max_attempts"]) == ("default", [1], {"max_retries": 4}, 5)
    assert abs(row["run_at"].timestamp() * 1000 - eta) < 5_000
    assert delayed(redis) == ([], 0)
    assert listed(redis) == []
    assert isolated(redis) == {}


def test_a_stock_delayed_message_that_is_due_is_offered_in_the_same_pass(
    act: Any, bells: Relay, book: Book, redis: Any
) -> None:
    message = stock_message("default.DQ", "act", options={"eta": 1})
    delay(redis, "stock-1", stock_bytes(message, "stock-1"))
    bells.run_once()
    assert listed(redis) == [redis_id(message.message_id, 1)]
    assert message_in(redis, redis_id(message.message_id, 1))["queue_name"] == "default"


def test_a_delayed_message_that_was_adopted_before_a_crash_is_not_a_second_job(
    act: Any, bells: Relay, book: Book, redis: Any
) -> None:
    data = stock_bytes(stock_message("default.DQ", "act", options={"eta": 2**42}), "stock-1")
    delay(redis, "stock-1", data)
    bells.run_once()
    delay(redis, "stock-1", data)
    bells.run_once()
    assert len(book.rows()) == 1
    assert delayed(redis) == ([], 0)


def test_a_delayed_id_without_a_message_is_dropped(act: Any, bells: Relay, book: Book, redis: Any) -> None:
    redis.rpush("dramatiq:default.DQ", "gone")
    bells.run_once()
    assert delayed(redis) == ([], 0)
    assert book.rows() == []


def broken(**changes: Any) -> bytes:
    """A delayed message with something wrong in it."""
    message = stock_message("default.DQ", "act", options={"eta": 1}).asdict()
    return json.dumps({**message, **changes}).encode()


BROKEN = {
    "no JSON": b"not json",
    "no UTF-8": b"\xff\xfe",
    "an array": b"[1]",
    "a text": b'"text"',
    "null": b"null",
    "few fields": b'{"actor_name": "act"}',
    "very deep": b"[" * 100_000,
    "an extra field": broken(extra_field=1),
    "no actor": broken(actor_name=None),
    "NUL in the actor": broken(actor_name="a\0b"),
    "no timestamp": broken(message_timestamp=None),
    "a timestamp in words": broken(message_timestamp="yesterday"),
    "a huge timestamp": broken(message_timestamp=10**30),
    "no args": broken(args=None),
    "args are a number": broken(args=5),
    "args are an object": broken(args={"a": 1}),
    "no kwargs": broken(kwargs=None),
    "kwargs are an array": broken(kwargs=[1]),
    "no options": broken(options=None),
    "options are an array": broken(options=[1]),
    "retries in words": broken(options={"max_retries": "many"}),
    "a wrong option of ours": broken(options={"eta": 1, "unique_key": 7}),
    "NUL in args": broken(args=["a\0b"]),
    "no id": broken(message_id=None),
    "NUL in the id": broken(message_id="a\0b"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_delayed_message_that_cannot_become_a_job_is_isolated_and_the_next_one_adopted(
    act: Any, bells: Relay, book: Book, redis: Any, kind: str
) -> None:
    """In the dead letters a person can look at it; left where it is, it would stop every pass."""
    good = stock_message("default.DQ", "act", options={"eta": 2**42})
    delay(redis, "bad", BROKEN[kind])
    delay(redis, "good", stock_bytes(good, "good"))
    bells.run_once()
    assert delayed(redis) == ([], 0)
    rows = {str(row["id"]): row for row in book.rows()}
    assert good.message_id in rows
    # Either it has become a job that can run and fail where everybody sees it, or it is a dead letter.
    others = [row for job, row in rows.items() if job != good.message_id]
    assert len(others) + len(isolated(redis)) == 1
    assert [(type(row["args"]), type(row["kwargs"])) for row in others] == [(list, dict)] * len(others)
    assert set(isolated(redis).values()) <= {BROKEN[kind]}


# -- without Redis


def test_without_redis_nothing_is_offered_and_nothing_raised(
    broker: CallboardBroker, book: Book, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    job = book.job()
    assert Relay(broker).run_once() == 0
    assert Strays(broker).run_once() == 0
    assert book.row(job)["offered_at"] is None


def test_a_push_that_fails_is_repeated(
    broker: CallboardBroker, book: Book, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import TimeoutError as RedisTimeout

    def fails(*_: Any, **__: Any) -> list[str]:
        raise RedisTimeout("no answer")

    job, mine = book.job(), Relay(broker)
    with monkeypatch.context() as patch:
        patch.setattr(relay, "push", fails)
        assert mine.run_once() == 0
    row = book.row(job)
    if row["offered_at"] is not None:
        offered_ago(book, job, relay.SILENCE_S + 1, row["dispatch"])
    assert mine.run_once() == 1
    assert len(listed(redis)) == 1


# -- strays


@pytest.fixture
def strays(broker: CallboardBroker, act: Any) -> Strays:
    """The duty, for the queue ``default``."""
    return Strays(broker)


def lost(redis: Any, identifier: str, data: bytes = b"{}") -> None:
    """In the hash, in no list, in nobody's hands."""
    redis.hset(messages_key("default"), identifier, data)


def test_a_stray_stock_message_goes_back_into_its_list_after_two_passes(strays: Strays, redis: Any) -> None:
    lost(redis, "stock-1")
    assert strays.run_once() == 0
    assert listed(redis) == []
    assert strays.run_once() == 1
    assert listed(redis) == ["stock-1"]
    assert strays.run_once() == strays.run_once() == 0
    assert listed(redis) == ["stock-1"]


def test_a_stray_offer_is_litter_its_row_will_be_offered_again(strays: Strays, redis: Any) -> None:
    lost(redis, redis_id(uuid4(), 3))
    strays.run_once()
    assert strays.run_once() == 1
    assert listed(redis) == []
    assert redis.hlen(messages_key("default")) == 0


def test_what_is_in_a_list_or_in_somebodys_hands_is_no_stray(strays: Strays, redis: Any) -> None:
    for band in (-1, 0, 1):
        lost(redis, f"listed {band}")
        redis.rpush(list_key("default", band), f"listed {band}")
    lost(redis, "held")
    redis.sadd(acks_key(uuid4(), "default"), "held")
    lost(redis, "astray")
    assert [strays.run_once() for _ in range(3)] == [0, 1, 0]
    assert listed(redis) == ["listed 0", "astray"]


def test_what_was_astray_for_a_moment_is_left_alone(strays: Strays, redis: Any) -> None:
    """Between its pop and its fetch a message is nowhere else."""
    lost(redis, "stock-1")
    strays.run_once()
    redis.sadd(acks_key(uuid4(), "default"), "stock-1")
    strays.run_once()
    redis.delete(*redis.keys("dramatiq:__acks__*"))
    assert strays.run_once() == 0
    assert strays.run_once() == 1


def test_a_message_whose_row_ended_long_ago_is_not_offered_by_anybody(
    bells: Relay, strays: Strays, book: Book, redis: Any
) -> None:
    job, token = book.running(offer=True)
    book.complete(job, token)
    lost(redis, redis_id(job, 1))
    for _ in range(3):
        strays.run_once()
        assert bells.run_once() == 0
    assert listed(redis) == []
    assert redis.hlen(messages_key("default")) == 0


def test_a_delay_of_months_survives(act: Any, bells: Relay, book: Book) -> None:
    """Redis would drop a delayed message after a week; a row waits."""
    message: Message[Any] = act.send_with_options(delay=timedelta(days=200))
    job = UUID(message.message_id)
    assert bells.run_once() == 0
    book.change(job, run_at=text("now() - interval '1 s'"))
    assert bells.run_once() == 1
