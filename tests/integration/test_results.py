"""Results come from the ledger, in any process, whoever wrote them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import pytest
from dramatiq import Message, group
from dramatiq.results import ResultFailure, ResultMissing, ResultTimeout

from actors.runtime.broker import CallboardBroker
from tests.integration import ledger_support
from tests.integration.ledger_support import Book, entry

module_database, database_url = ledger_support.module_database, ledger_support.database_url


@pytest.fixture
def act(broker: CallboardBroker) -> dramatiq.Actor[..., Any]:
    """An actor whose jobs these tests finish themselves."""

    def act(*args: Any, **kwargs: Any) -> None: ...

    return dramatiq.actor(broker=broker)(act)


def started(act: Any, book: Book, **options: Any) -> tuple[Message[Any], UUID, UUID]:
    """A message whose job runs: message, job, token."""
    message = act.send_with_options(**options)
    job, token = UUID(message.message_id), uuid4()
    book.claim(job, book.worker(), token)
    return message, job, token


@pytest.mark.parametrize("result", ["null", "0", '""', "[]", '{"a": [1e22, -0.0, "é"]}', str(10**299)])
def test_a_result_is_what_the_actor_returned(act: Any, book: Book, result: str) -> None:
    message, job, token = started(act, book)
    book.complete(job, token, result=result)
    assert repr(message.get_result()) == repr(json.loads(result))


def test_a_result_can_be_read_again_and_by_anybody(act: Any, book: Book, broker: CallboardBroker) -> None:
    message, job, token = started(act, book)
    book.complete(job, token, result="7")
    copy: Message[int] = Message.decode(message.encode())
    assert [message.get_result(), message.get_result(), copy.get_result()] == [7, 7, 7]
    assert broker.get_results_backend().get_result(copy) == 7


@pytest.mark.parametrize("state", ["waits", "runs", "waits to be retried"])
def test_before_the_end_there_is_no_result(act: Any, book: Book, state: str) -> None:
    if state == "waits":
        message = act.send()
    else:
        message, job, token = started(act, book)
        if state != "runs":
            book.fail(job, token)
    with pytest.raises(ResultMissing):
        message.get_result()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=30)


def test_an_unknown_job_has_no_result(act: Any) -> None:
    with pytest.raises(ResultMissing):
        act.message().get_result()
    with pytest.raises(ResultTimeout):
        act.message().get_result(block=True, timeout=30)


def test_a_time_out_is_kept(act: Any) -> None:
    message = act.send()
    before = time.monotonic()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=400)
    assert 0.4 <= time.monotonic() - before < 1.5


def test_a_blocking_read_returns_soon_after_the_end(act: Any, book: Book) -> None:
    message, job, token = started(act, book)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(message.get_result, block=True, timeout=20_000)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        book.complete(job, token, result='"done"')
        before = time.monotonic()
        assert waiting.result(10) == "done"
        assert time.monotonic() - before < 2


def test_a_blocking_read_sees_through_a_retry(act: Any, book: Book) -> None:
    message, job, token = started(act, book, max_attempts=3)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(message.get_result, block=True, timeout=20_000)
        book.fail(job, token)
        second = uuid4()
        book.claim(job, book.worker(), second)
        book.complete(job, second, result="2")
        assert waiting.result(10) == 2


def test_a_failed_job_says_what_was_raised(act: Any, book: Book) -> None:
    message, job, token = started(act, book)
    last = entry(**{"class": "ValueError", "message": "no such café"})
    book.fail(job, token, "fail", entry=last, error="ValueError: no such café")
    with pytest.raises(ResultFailure, match="actor raised ValueError: no such café") as caught:
        message.get_result()
    assert (caught.value.orig_exc_type, caught.value.orig_exc_msg) == ("ValueError", "no such café")
    with pytest.raises(ResultFailure):
        message.get_result(block=True, timeout=5_000)


def test_a_job_that_crashed_too_often_says_so(act: Any, book: Book) -> None:
    message, job, token = started(act, book, max_attempts=1)
    (worker,) = {row["worker_id"] for row in book.rows()}
    book.kill(worker)
    book.rescue(crashed=[token])
    assert book.row(job)["status"] == "FAILED"
    with pytest.raises(ResultFailure, match="worker process died"):
        message.get_result()


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_cancelled_job_is_a_failure(act: Any, book: Book, when: str) -> None:
    if when == "waiting":
        message = act.send()
        book.cancel(UUID(message.message_id))
    else:
        message, job, token = started(act, book)
        book.cancel(job)
        book.fail(job, token, "cancel", entry=entry(**{"class": "JobCancelled", "message": "asked for"}))
    with pytest.raises(ResultFailure, match="Cancelled"):
        message.get_result()


def test_a_result_that_could_not_be_kept_is_a_failure_that_says_why(act: Any, book: Book) -> None:
    message, job, token = started(act, book)
    book.complete(job, token, result=None, result_error="a value of type set is not JSON (at /a)")
    with pytest.raises(ResultFailure, match="a value of type set is not JSON"):
        message.get_result()


def test_nothing_but_the_finish_writes_a_result(act: Any, book: Book, broker: CallboardBroker) -> None:
    """A zombie, or a redelivery that was refused, would overwrite it."""
    message, job, token = started(act, book)
    book.complete(job, token, result="1")
    backend = broker.get_results_backend()
    backend.store_result(message, "zombie", 1000)
    backend.store_exception(message, ValueError("zombie"), 1000)
    assert message.get_result() == 1


def test_a_duplicates_result_is_the_holders(act: Any, book: Book) -> None:
    holder = act.send_with_options(unique_key="k")
    duplicate = act.send_with_options(unique_key="k")
    job, token = UUID(holder.message_id), uuid4()
    book.claim(job, book.worker(), token)
    book.complete(job, token, result="5")
    assert duplicate.get_result() == 5


def test_a_foreign_ids_result(act: Any, book: Book, broker: CallboardBroker) -> None:
    given = act.message().copy(message_id="order-17")
    job, token = UUID(broker.enqueue(given).message_id), uuid4()
    book.claim(job, book.worker(), token)
    book.complete(job, token, result="5")
    assert given.get_result() == 5


def test_a_groups_results(act: Any, book: Book, broker: CallboardBroker) -> None:
    several: Any = group([act.message(n) for n in range(3)], broker=broker)  # type: ignore[no-untyped-call]
    several.run()
    jobs = [UUID(message.message_id) for message in several.children]
    assert several.completed_count == 0
    for number, job in enumerate(jobs):
        token = uuid4()
        book.claim(job, book.worker(), token)
        book.complete(job, token, result=str(number))
    assert several.completed
    assert list(several.get_results(block=True, timeout=5_000)) == [0, 1, 2]
