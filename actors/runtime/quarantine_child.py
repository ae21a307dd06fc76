"""The quarantine child: ``python -m actors.runtime.quarantine_child [--keep] MODULE…``.

Takes suspects straight from the ledger, one at a time, in one thread, and ends when there are none for a while. Kept,
it waits for as long as its parent lives; when that is killed, the child is the first to know, reports it and takes
the suspects before it goes.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from threading import Event, Thread
from typing import Any
from uuid import UUID

from dramatiq import Message, Worker
from dramatiq.broker import MessageProxy
from dramatiq.worker import WorkerThread
from sqlalchemy import exc, select

from actors.runtime.broker import CallboardBroker
from actors.runtime.consumer import Delivery
from actors.runtime.messages import offer_of
from actors.runtime.quarantine import DUE_SUSPECT
from actors.runtime.rescuer import Rescuer
from actors.runtime.sending import our_broker
from models.ledger import MESSAGE_COLUMNS
from models.rows import one_row
from models.tables import jobs

#: Seconds without a suspect after which the child ends.
IDLE_S = 8.0
#: Seconds between two looks.
LOOK_S = 0.2
LOG_FORMAT = "[%(asctime)s] [PID %(process)d] [%(name)s] [%(levelname)s] %(message)s"


class _NoQueue:
    """Stands where Dramatiq's worker thread expects its queue: nothing waits here."""

    def task_done(self) -> None:
        """Nothing to do."""


class _NoConsumer:
    """Stands where it expects a consumer: the message came from the ledger, so nobody waits for an answer."""

    def post_process_message(self, message: MessageProxy) -> None:
        """Nothing to do."""


class _Consumers(dict[str, Any]):
    def __missing__(self, _: str) -> _NoConsumer:
        return _NoConsumer()


def run(broker: CallboardBroker, stop: Event, *, keep: Event) -> None:
    """Work until ``stop`` is set, or until there was nothing to do for a while and ``keep`` is not set."""
    broker.quarantine = True
    broker.emit_after("process_boot")
    worker = Worker(broker, worker_threads=1)
    broker.emit_before("worker_boot", worker)
    broker.emit_after("worker_boot", worker)
    thread: Any = WorkerThread(
        broker=broker,
        consumers=_Consumers(),
        work_queue=_NoQueue(),  # type: ignore[arg-type]
        worker_timeout=1000,
    )
    try:
        rescuer = Rescuer(broker)
        idle_since = time.monotonic()
        while not stop.is_set() and (keep.is_set() or time.monotonic() - idle_since < IDLE_S):
            try:
                rescuer.report_local_deaths()
                delivery = next_suspect(broker)
            except exc.DBAPIError:
                if not keep.is_set():
                    break  # no parent, no database: nothing to stay for
                delivery = None
            if delivery is not None:
                thread.process_message(delivery)
            if delivery is None or delivery.attempt is None:
                stop.wait(LOOK_S)  # nothing there, or somebody else was faster
            if keep.is_set() or delivery is not None:
                idle_since = time.monotonic()
    finally:
        broker.emit_before("worker_shutdown", worker)
        broker.emit_after("worker_shutdown", worker)
        broker.close()


def next_suspect(broker: CallboardBroker) -> Delivery | None:
    """The suspect that has waited longest, as a message; None when there is none. Raises DBAPIError."""
    with broker.resources.engine.connect() as connection:
        actors = {"actors": sorted(broker.get_declared_actors()), "waited_s": 0}
        job_id: UUID | None = connection.execute(DUE_SUSPECT, actors).scalar_one_or_none()
        if job_id is None:
            return None
        row = one_row(connection.execute(select(*MESSAGE_COLUMNS).where(jobs.c.id == job_id)))
    if row is None:
        return None
    offer = offer_of(row)
    return Delivery(Message.decode(offer.data), offer.redis_id, offer.data)


def main(modules: list[str]) -> int:
    """The process."""
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s] [PID %(process)d] [%(name)s] [%(levelname)s] %(message)s"
    )
    keep = Event()
    if modules[:1] == ["--keep"]:
        keep.set()
    for module in modules[keep.is_set() :]:
        importlib.import_module(module)
    stop = Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def parent_is_gone() -> None:
        # The bare descriptor: a thread inside sys.stdin would abort the interpreter's shutdown.
        while os.read(0, 1024):
            pass
        keep.clear()

    def told_to_stop() -> None:
        # At once, not after the current job: whoever loses patience with that then ends a process that was asked to.
        stop.wait()
        broker.stopping.set()
        if broker.liveness is not None:
            broker.liveness.announce_stop()

    broker = our_broker()
    Thread(target=parent_is_gone, name="callboard-parent", daemon=True).start()
    Thread(target=told_to_stop, name="callboard-stop", daemon=True).start()
    run(broker, stop, keep=keep)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
