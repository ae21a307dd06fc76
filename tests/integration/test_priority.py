"""Priorities: lower first, across everything that is not yet in a worker's hands."""

from __future__ import annotations

from threading import Lock
from typing import Any

from tests.integration import ledger_support, worker_support
from tests.integration.worker_support import Gate, Stage

stage = worker_support.stage
module_database, database_url = ledger_support.module_database, ledger_support.database_url

THREADS = 4
#: What a worker may hold: one job a thread, and Dramatiq's prefetch of two a thread.
IN_HAND = 3 * THREADS


def test_an_urgent_job_sent_last_starts_before_all_but_the_prefetched(stage: Stage) -> None:
    started: list[int] = []
    lock, gate = Lock(), Gate()

    @stage.actor(actor_name="note")
    def note(number: int) -> None:
        with lock:
            started.append(number)
        if number < THREADS:
            gate.wait()

    stage.send([note.message_with_options(args=(number,), priority=5) for number in range(1_000)])
    stage.start(THREADS)
    gate.meet()
    urgent = note.send_with_options(args=(-1,), priority=-5)
    gate.opened.set()
    stage.wait_until_ended(urgent)
    place = started.index(-1)
    assert place <= IN_HAND, (place, started[: place + 1])


def test_a_worker_that_comes_later_takes_the_urgent_first(stage: Stage) -> None:
    order: list[str] = []

    @stage.actor(actor_name="note")
    def note(name: str) -> None:
        order.append(name)

    sent: list[Any] = []
    for name, priority in (("patient", 5), ("usual", 0), ("urgent", -5)):
        sent += stage.send([note.message_with_options(args=(name,), priority=priority) for _ in range(30)])
    stage.start(1)
    for message in sent:
        stage.wait_until_ended(message, 30)
    first = {name: order.index(name) for name in ("urgent", "usual", "patient")}
    assert first["urgent"] < first["usual"] < first["patient"]
    assert order[:10] == ["urgent"] * 10
