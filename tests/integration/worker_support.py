"""One broker, its worker in this process, and the ledger as the tests see it.

A module takes the fixtures it needs with ``stage = worker_support.stage``. A test gets a :class:`Stage`: a broker of
its own on a database of its own; it declares actors with :meth:`Stage.actor`, starts the worker, sends, reads rows.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import dramatiq
import psycopg
import pytest
from dramatiq import Message, Worker, get_broker, set_broker
from sqlalchemy import Engine, Table, select, text

from actors.runtime.broker import CallboardBroker, make_broker
from actors.runtime.keys import NAMESPACE, messages_key
from actors.runtime.messages import Offer, job_id_of, offer_of
from dev.valkey import Valkey
from models.ledger import MESSAGE_COLUMNS
from models.settings import get_settings
from models.state import LIVE, Status
from models.tables import jobs, workers
from tests.support import wait_for

#: Statuses as the database has them.
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = (status.value for status in Status)
#: Seconds that a job of these tests may take until it counts as stuck.
PATIENCE_S = 10.0

Row = dict[str, Any]


class Gate:
    """Where an actor and its test meet: the actor says that it is there and waits to be let through."""

    def __init__(self) -> None:
        self.reached = Event()
        self.opened = Event()

    def wait(self) -> None:
        """For the actor."""
        self.reached.set()
        assert self.opened.wait(PATIENCE_S), "nobody opened the gate"

    def meet(self) -> None:
        """For the test: wait until the actor is there."""
        assert self.reached.wait(PATIENCE_S), "the actor did not reach the gate"


class Ledger:
    """What the tables say, to a test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def _all(self, table: Table, *conditions: Any) -> list[Row]:
        with self.engine.connect() as connection:
            found = connection.execute(select(table).where(*conditions).order_by(table.c.id)).mappings()
            return [dict(row) for row in found]

    def job(self, job: Message[Any] | UUID | str) -> Row:
        """The row of a job. Raises AssertionError when there is none (yet)."""
        found = self._all(jobs, jobs.c.id == _id(job))
        assert found, f"no row for {job}"
        return found[0]

    def jobs(self, actor: str | None = None) -> list[Row]:
        """Every row, or those of one actor, in the order of their ids."""
        return self._all(jobs, *([jobs.c.actor == actor] if actor else []))

    def workers(self) -> list[Row]:
        """Every worker that ever signed in."""
        return self._all(workers)

    def execute(self, statement: str, **values: Any) -> int:
        """Run SQL of the test's own (schema ``callboard``); returns how many rows it touched."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).rowcount

    def wait_for_status(self, job: Message[Any] | UUID | str, status: str, timeout: float = PATIENCE_S) -> Row:
        """The row once it has this status."""

        def reached() -> Row:
            row = self.job(job)
            assert row["status"] == status, (row["status"], row["attempts"], row["error"])
            return row

        return wait_for(reached, timeout, what=f"job to be {status}")

    def wait_until_ended(self, job: Message[Any] | UUID | str, timeout: float = PATIENCE_S) -> Row:
        """The row once it is terminal."""

        def ended() -> Row:
            row = self.job(job)
            assert row["status"] not in LIVE, (row["status"], row["attempts"], row["error"])
            return row

        return wait_for(ended, timeout, what="job to end")

    def wait_until_all_ended(self, count: int, timeout: float) -> list[Row]:
        """Every row, once there are ``count`` and all are terminal."""

        def ended() -> list[Row]:
            rows = self.jobs()
            live = [(row["status"], row["attempts"], row["error"]) for row in rows if row["status"] in LIVE]
            assert (len(rows), len(live)) == (count, 0), live[:3]
            return rows

        return wait_for(ended, timeout, interval=0.1, what=f"{count} jobs to end")


def _id(job: Message[Any] | UUID | str) -> UUID:
    return job_id_of(job.message_id)[0] if isinstance(job, Message) else UUID(str(job))


class Stage(Ledger):
    """A broker with its worker, on this test's own database and Redis database."""

    def __init__(self, broker: CallboardBroker, engine: Engine) -> None:
        super().__init__(engine)
        self.broker = broker
        self.worker: Worker | None = None

    @property
    def redis(self) -> Any:
        """The broker's own client."""
        return self.broker.client

    def actor(self, fn: Callable[..., Any] | None = None, **options: Any) -> Any:
        """``dramatiq.actor`` on this broker, with a backoff of milliseconds."""
        options = {"broker": self.broker, "min_backoff": 10, "max_backoff": 20, **options}
        return dramatiq.actor(fn, **options) if fn is not None else dramatiq.actor(**options)

    def start(self, threads: int = 4) -> Worker:
        """Start the worker; it has signed in when this returns."""
        self.worker = Worker(self.broker, worker_threads=threads, worker_timeout=100)
        self.worker.start()
        return self.worker

    def stop(self) -> None:
        """Stop the worker as a SIGTERM would."""
        if self.worker is None:
            return
        worker, self.worker = self.worker, None
        stopping = Thread(target=worker.stop)
        stopping.start()
        self.broker.stopping.wait()
        try:
            # A blocking pop ends by itself within a second; a name without a message ends it at once.
            for queue in self.broker.get_declared_queues():
                self.redis.rpush(f"{NAMESPACE}:{queue}", "wake")
        except Exception:  # noqa: BLE001 - Redis may be gone by design of the test
            logging.getLogger(__name__).debug("nobody woken")
        stopping.join()

    def send(self, messages: Sequence[Message[Any]]) -> list[Message[Any]]:
        """Send many in one transaction."""
        return self.broker.enqueue_many([(message, None) for message in messages])

    def run(self, message: Message[Any], timeout: float = PATIENCE_S) -> Row:
        """The row of a message once it has ended."""
        return self.wait_until_ended(message, timeout)

    def offer(self, job: Message[Any] | UUID, dispatch: int) -> Offer:
        """The message of a row as the relay would push it under this dispatch number."""
        with self.engine.connect() as connection:
            row = connection.execute(select(*MESSAGE_COLUMNS).where(jobs.c.id == _id(job))).mappings().one()
        return offer_of({**row, "dispatch": dispatch, "offered_at": row["offered_at"]})

    def push(self, queue: str, redis_id: str, data: bytes) -> None:
        """Put a message into the queue's list behind the ledger's back."""
        self.redis.hset(messages_key(queue), redis_id, data)
        self.redis.rpush(f"{NAMESPACE}:{queue}", redis_id)

    def left_in_redis(self) -> dict[str, Any]:
        """The lists, message hashes and acknowledgement sets that are not empty."""
        return {key.decode(): self.redis.type(key).decode() for key in self.redis.scan_iter(f"{NAMESPACE}:*")}


@contextmanager
def stage_on(engine: Engine) -> Iterator[Stage]:
    """A stage whose broker is Dramatiq's global one for a while."""
    before = get_broker()
    broker = make_broker()
    set_broker(broker)
    stage = Stage(broker, engine)
    try:
        yield stage
    finally:
        stage.stop()
        broker.close()
        set_broker(before)


@pytest.fixture
def stage(engine: Engine) -> Iterator[Stage]:
    """One broker of this test's own; its worker is stopped afterwards."""
    with stage_on(engine) as stage:
        yield stage


@contextmanager
def a_valkey(server_folder: Path) -> Iterator[Valkey]:
    """A Valkey of one's own."""
    name = f"valkey-{secrets.token_hex(4)}"
    server = Valkey(
        server_folder / name, log=server_folder / f"{name}.log", port=None, password="only-for-tests", durable=False
    )
    server.boot()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_valkey(server_folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Valkey]:
    """A Valkey that this test may stop, start and flush; REDIS_URL names it."""
    with a_valkey(server_folder) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        get_settings.cache_clear()
        yield server


@contextmanager
def unreachable_postgres(postgres_url: str, database_url: str) -> Iterator[None]:
    """While this lasts, every connection to the test's database is cut as soon as it is seen."""
    name = urlsplit(database_url).path.removeprefix("/")
    over = Event()

    def cut() -> None:
        with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
            while not over.wait(0.02):
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    thread = Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """The captured log lines of one event."""
    return [message for record in caplog.records if f"event='{name}'" in (message := record.getMessage())]


def stock_message(queue: str, actor: str, *args: Any, options: Mapping[str, Any] | None = None) -> Message[Any]:
    """A message as a producer without our broker would make it."""
    return Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options=dict(options or {}))


def stock_bytes(message: Message[Any], redis_id: str) -> bytes:
    """What the stock broker pushes for it."""
    fields = {**message.asdict(), "options": {**message.options, "redis_message_id": redis_id}}
    return json.dumps(fields, separators=(",", ":")).encode()
