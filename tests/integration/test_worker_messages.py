"""Redis is a doorbell: messages doubled, lost, early, foreign or broken, and what the ledger makes of them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from dramatiq.errors import QueueJoinTimeout

from actors.runtime import current_job
from actors.runtime.keys import list_keys, messages_key
from models.state import LIVE
from tests.integration import worker_support
from tests.integration.worker_support import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    Gate,
    Stage,
    events,
    stock_bytes,
    stock_message,
)
from tests.support import wait_for

stage = worker_support.stage

#: A producer that knows Dramatiq and nothing of ours.
STOCK_PRODUCER = """
import sys
import dramatiq
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=sys.argv[1])
dramatiq.set_broker(broker)

@dramatiq.actor(actor_name="stocktaking")
def stocktaking(what): ...

for message in (stocktaking.send("now"), stocktaking.send_with_options(args=("later",), delay=700)):
    print(message.message_id)
assert not {"actors", "models", "sqlalchemy"} & set(sys.modules)
"""


def is_drained(stage: Stage, queue: str = "default") -> bool:
    """Whether Redis holds nothing of a queue: no list, no message, no acknowledgement owed."""
    left = stage.left_in_redis()
    assert not [key for key in left if f":{queue}" in key or "__acks__" in key], left
    return True


def is_drained_but_for_dead_letters(stage: Stage) -> bool:
    """The same, with what was isolated left out."""
    left = [key for key in stage.left_in_redis() if ".XQ" not in key]
    assert not left
    return True


# -- doubled, early, foreign


def test_five_copies_of_one_message_run_once(stage: Stage) -> None:
    runs: list[UUID] = []

    @stage.actor
    def once() -> None:
        runs.append(current_job().id)
        raise_the_stakes.wait()

    raise_the_stakes = Gate()
    message = once.send()
    stage.broker.bell.flush()
    for dispatch in range(101, 106):
        offer = stage.offer(message, dispatch)
        stage.push("default", offer.redis_id, offer.data)
    stage.start()
    raise_the_stakes.meet()
    # The copies are refused while the one runs.
    wait_for(lambda: stage.redis.hlen(messages_key("default")) == 1)
    raise_the_stakes.opened.set()
    row = stage.run(message)
    offer = stage.offer(message, 106)  # and one that comes when all is over
    stage.push("default", offer.redis_id, offer.data)
    wait_for(lambda: is_drained(stage))
    assert (row["status"], row["attempts"], row["errors"]) == (COMPLETED, 1, [])
    assert runs == [UUID(message.message_id)]
    assert stage.job(message)["version"] == row["version"]


def test_a_marked_message_without_a_row_is_dropped(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    runs: list[str] = []

    @stage.actor
    def ghost() -> None:
        runs.append("boo")

    caplog.set_level("INFO", "callboard.claim")
    message = ghost.send_with_options(delay=3_600_000)
    offer = stage.offer(message, 1)
    assert stage.execute("DELETE FROM callboard.jobs") == 1
    stage.start()
    stage.push("default", offer.redis_id, offer.data)
    (line,) = wait_for(lambda: events(caplog, "message.dropped"))
    assert message.message_id in line
    wait_for(lambda: is_drained(stage))
    assert (runs, stage.jobs()) == ([], [])


def test_a_message_that_comes_before_its_job_is_due_is_dropped(stage: Stage) -> None:
    @stage.actor
    def later() -> str:
        return "ran"

    message = later.send_with_options(delay=3_600_000)
    stage.start()
    offer = stage.offer(message, 9)
    stage.push("default", offer.redis_id, offer.data)
    wait_for(lambda: is_drained(stage))
    row = stage.job(message)
    assert (row["status"], row["attempts"], row["started_at"]) == (PENDING, 0, None)
    stage.execute("UPDATE callboard.jobs SET run_at = now()")
    assert stage.run(message)["result"] == "ran"  # the relay offers it when it is due


def test_a_stock_message_of_an_unknown_actor_gets_a_row_and_waits_for_a_worker_that_knows_it(stage: Stage) -> None:
    @stage.actor
    def known() -> None: ...

    stage.start()
    message = stock_message("default", "of_the_next_release", 1, "two")
    stage.push("default", "r1", stock_bytes(message, "r1"))
    (row,) = wait_for(lambda: stage.jobs("of_the_next_release"))
    assert (str(row["id"]), row["args"], row["status"]) == (message.message_id, [1, "two"], PENDING)

    @stage.actor
    def of_the_next_release(*args: Any) -> list[Any]:
        return list(args)

    assert stage.wait_until_ended(row["id"], timeout=20)["result"] == [1, "two"]


def test_a_stock_message_with_an_id_of_its_own_kind_gets_a_row_once(stage: Stage) -> None:
    @stage.actor
    def any_id() -> None: ...

    stage.start()
    message = stock_message("default", "any_id").copy(message_id="order-17")
    for redis_id in ("r1", "r2"):
        stage.push("default", redis_id, stock_bytes(message, redis_id))
    wait_for(lambda: stage.jobs("any_id"))
    wait_for(lambda: is_drained(stage))
    (row,) = stage.jobs("any_id")
    assert stage.wait_until_ended(row["id"])["attempts"] == 1
    assert row["options"]["original_message_id"] == "order-17"


#: Options that a stock producer may have sent and that nobody checked.
ODD_OPTIONS: tuple[dict[str, Any], ...] = (
    {"throws": "boom"},
    {"pipe_target": 5},
    {"pipe_target": {"queue_name": 1}},
    {"on_success": 5, "on_failure": [], "on_retry_exhausted": {}},
    {"on_failure": "nobody_knows_this_actor"},
    {"max_retries": "many"},
    {"min_backoff": "long"},
    {"max_backoff": None},
    {"retries": "some"},
    {"time_limit": "short"},
    {"time_limit": 1e400},
    {"max_age": "old"},
    {"notify_shutdown": "loud"},
    {"delay": "later"},
    {"priority": 10**40},
    {"tenant_id": "nobody"},
    {"unique_key": ""},
    {"backoff": "slow"},
    {"callboard": 5},
    {"callboard": {"dispatch": 1}},
)


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_no_option_of_a_foreign_message_breaks_a_worker(stage: Stage, fails: bool) -> None:
    @stage.actor(max_retries=1)
    def odd(label: str) -> None:
        if fails:
            raise ValueError(label)

    @stage.actor
    def fine() -> str:
        return "fine"

    worker = stage.start(threads=2)
    for options in ODD_OPTIONS:
        message = stock_message("default", "odd", str(options), options=options)
        stage.push("default", str(options), stock_bytes(message, str(options)))
    with suppress(AssertionError):
        wait_for(lambda: not stage.redis.hlen(messages_key("default")), 5)
    in_redis = [identifier.decode() for identifier in stage.redis.hkeys(messages_key("default"))]
    with suppress(AssertionError):
        # A message that was isolated, or dropped as ours, has no row.
        wait_for(lambda: not [row for row in stage.jobs("odd") if row["status"] in LIVE], 5)
    live = [(row["args"], row["status"]) for row in stage.jobs("odd") if row["status"] in LIVE]
    dead = [thread for thread in worker.workers if not thread.is_alive()]
    assert (in_redis, live, dead) == ([], [], [])
    assert stage.run(fine.send())["result"] == "fine"


def test_a_stock_message_that_cannot_become_a_row_is_isolated(stage: Stage) -> None:
    @stage.actor
    def plain(text: str) -> None: ...

    stage.start()
    message = stock_message("default", "plain", "a\x00b")
    stage.push("default", "r1", stock_bytes(message, "r1"))
    wait_for(lambda: stage.redis.zcard("dramatiq:default.XQ") == 1)
    wait_for(lambda: not stage.redis.hlen(messages_key("default")))
    assert stage.redis.hget("dramatiq:default.XQ.msgs", "r1") == stock_bytes(message, "r1")
    assert stage.jobs("plain") == []


BROKEN_MESSAGES = {
    "no-json": b"{",
    "no-utf8": b"\xff\xfe",
    "no-message": b'{"a": 1}',
    "no-object": b"[1, 2]",
    "null": b"null",
    "options-no-object": b'{"queue_name":"default","actor_name":"fine","args":[],"kwargs":{},"options":[],'
    b'"message_id":"x","message_timestamp":1}',
    "args-no-list": b'{"queue_name":"default","actor_name":"fine","args":5,"kwargs":{},"options":{},'
    b'"message_id":"x","message_timestamp":1}',
    "kwargs-no-object": b'{"queue_name":"default","actor_name":"fine","args":[],"kwargs":[1],"options":{},'
    b'"message_id":"x","message_timestamp":1}',
    "actor-no-text": b'{"queue_name":"default","actor_name":[],"args":[],"kwargs":{},"options":{},'
    b'"message_id":"x","message_timestamp":1}',
    "id-no-text": b'{"queue_name":"default","actor_name":"fine","args":[],"kwargs":{},"options":{},'
    b'"message_id":{},"message_timestamp":"soon"}',
    "deep": b"[" * 100_000,
}


def test_a_broken_message_takes_no_other_down(stage: Stage) -> None:
    @stage.actor
    def fine(n: int) -> int:
        return n

    good = [fine.message(n) for n in range(10)]
    stage.send(good[:5])
    stage.broker.bell.flush()
    stage.push("default", "broken", BROKEN_MESSAGES["no-json"])
    stage.send(good[5:])
    stage.broker.bell.flush()
    stage.start()
    assert [stage.run(message)["result"] for message in good] == list(range(10))
    assert [stage.job(message)["attempts"] for message in good] == [1] * 10
    wait_for(lambda: stage.redis.zrange("dramatiq:default.XQ", 0, -1) == [b"broken"], what="the dead letter")
    assert stage.redis.hget("dramatiq:default.XQ.msgs", "broken") == BROKEN_MESSAGES["no-json"]
    wait_for(lambda: not stage.redis.hlen(messages_key("default")))


def test_messages_broken_in_any_way_are_isolated_and_the_consumer_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.actor
    def fine(*_: Any) -> str:
        return "fine"

    stage.start()
    for name, data in BROKEN_MESSAGES.items():
        stage.push("default", name, data)
    assert stage.run(fine.send())["result"] == "fine"
    with suppress(AssertionError):
        wait_for(lambda: stage.redis.zcard("dramatiq:default.XQ") == len(BROKEN_MESSAGES), 5)
    isolated = {identifier.decode() for identifier in stage.redis.zrange("dramatiq:default.XQ", 0, -1)}
    assert set(BROKEN_MESSAGES) - isolated == set()
    assert "Consumer encountered an unexpected error" not in caplog.text
    wait_for(lambda: is_drained_but_for_dead_letters(stage))


@pytest.mark.parametrize("identifier", ["nobody", f"{uuid4()}.1", b"\xff\xfe"], ids=["foreign", "ours", "no-text"])
def test_an_id_without_its_message_is_passed_over(stage: Stage, identifier: str | bytes) -> None:
    @stage.actor
    def fine() -> None: ...

    stage.redis.rpush("dramatiq:default", identifier)
    message = fine.send()
    stage.start()
    assert stage.run(message)["status"] == COMPLETED
    wait_for(lambda: is_drained(stage))


def test_what_a_stock_producer_sends_is_recorded_and_run(
    stage: Stage, environment: dict[str, str], tmp_path: Path
) -> None:
    @stage.actor
    def stocktaking(what: str) -> str:
        return f"counted {what}"

    stage.start()
    program = tmp_path / "producer.py"
    program.write_text(STOCK_PRODUCER)
    done = subprocess.run(
        [sys.executable, program, environment["REDIS_URL"]],
        capture_output=True, text=True, check=False, timeout=30, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    now, later = done.stdout.split()
    for job, what in ((now, "now"), (later, "later")):
        wait_for(lambda: [r for r in stage.jobs() if str(r["id"]) == job], 5, what=what)  # noqa: B023
        row = stage.wait_until_ended(job)
        assert (row["status"], row["attempts"], row["result"]) == (COMPLETED, 1, f"counted {what}")
        assert (row["actor"], row["args"], row["tenant_id"]) == ("stocktaking", [what], "default")
    row = stage.job(later)
    assert row["started_at"].timestamp() * 1000 >= row["message_timestamp"] + 700
    wait_for(lambda: is_drained(stage))
    assert len(stage.jobs()) == 2


# -- order, acknowledgements


def test_urgent_jobs_run_before_normal_ones_and_those_before_patient_ones(stage: Stage) -> None:
    order: list[int] = []

    @stage.actor
    def act(priority: int) -> None:
        order.append(priority)

    given = [0, 7, -3, 0, 1, -10, 3, 0]
    sent = [act.send_with_options(args=(priority,), priority=priority) for priority in given]
    stage.broker.bell.flush()
    stage.start(threads=1)
    for message in sent:
        stage.run(message)
    bands = [(priority > 0) - (priority < 0) for priority in order]
    assert bands == sorted(bands), order
    # Within a band it is first come, first served.
    assert order == [*(p for p in given if p < 0), 0, 0, 0, *(p for p in given if p > 0)]


def test_nothing_is_left_in_redis_when_all_jobs_have_ended(stage: Stage) -> None:
    @stage.actor(max_retries=1)
    def mixed(n: int) -> int:
        if n % 3 == 0:
            raise ValueError(n)
        return n

    @stage.actor(queue_name="other")
    def elsewhere() -> None: ...

    stage.start()
    stage.send([mixed.message_with_options(args=(n,), priority=n % 5 - 2) for n in range(60)])
    stage.send([elsewhere.message() for _ in range(20)])
    rows = stage.wait_until_all_ended(80, 30)
    assert sum(row["status"] == FAILED for row in rows) == 20
    wait_for(lambda: is_drained(stage) and is_drained(stage, "other"))


def test_a_stopping_worker_puts_back_what_it_has_fetched_and_not_claimed(stage: Stage) -> None:
    gate = Gate()

    @stage.actor
    def slow(n: int) -> None:
        gate.wait()

    stage.send([slow.message(n) for n in range(6)])
    stage.broker.bell.flush()
    worker = stage.start(threads=1)
    gate.meet()
    wait_for(worker.work_queue.qsize, what="prefetched messages")
    gate.opened.set()
    stage.stop()
    rows = stage.jobs()
    waiting = [row for row in rows if row["status"] == PENDING]
    assert waiting
    assert {(row["status"], row["attempts"]) for row in rows} == {(COMPLETED, 1), (PENDING, 0)}
    ids = {key.rpartition(b".")[0].decode() for key in stage.redis.lrange("dramatiq:default", 0, -1)} - {""}
    assert ids == {str(row["id"]) for row in waiting}
    assert not [key for key in stage.left_in_redis() if "__acks__" in key]


# -- Dramatiq's own interface


def test_join_waits_for_running_retrying_and_scheduled_jobs(stage: Stage) -> None:
    @stage.actor(max_retries=1, min_backoff=200, max_backoff=200)
    def second_time() -> None:
        if current_job().attempt == 1:
            raise ValueError

    @stage.actor
    def scheduled() -> None: ...

    stage.start()
    sent = [second_time.send(), scheduled.send_with_options(delay=500)]
    stage.broker.join("default", timeout=10_000)
    assert [stage.job(message)["status"] for message in sent] == [COMPLETED, COMPLETED]
    scheduled.send_with_options(delay=60_000)
    with pytest.raises(QueueJoinTimeout):
        stage.broker.join("default", timeout=200)
    stage.broker.join("some_other_queue", timeout=200)


def test_flush_drops_what_waits_in_one_queue_and_leaves_what_runs(stage: Stage) -> None:
    gate = Gate()

    @stage.actor
    def here() -> str:
        gate.wait()
        return "finished"

    @stage.actor(queue_name="other")
    def there() -> None: ...

    stage.start(threads=1)
    runs = here.send()
    gate.meet()
    waits, later, kept = here.send(), here.send_with_options(delay=60_000), there.send_with_options(delay=60_000)
    stage.broker.flush("default")
    assert [stage.job(m)["status"] for m in (waits, later, kept)] == [CANCELLED, CANCELLED, PENDING]
    assert not stage.redis.exists(*list_keys("default"))
    gate.opened.set()
    assert stage.run(runs)["result"] == "finished"
    stage.broker.flush_all()
    assert stage.job(kept)["status"] == CANCELLED


def test_a_closed_broker_can_be_used_again(stage: Stage) -> None:
    @stage.actor
    def again() -> str:
        return "again"

    again.send()
    stage.broker.close()
    message = again.send()
    stage.start()
    assert stage.run(message)["result"] == "again"
    stage.stop()
    stage.broker.close()
    stage.start()
    assert stage.run(again.send())["result"] == "again"
    assert [worker["death"] for worker in stage.workers()] == ["stopped", None]
