"""The broker: Dramatiq's RedisBroker, wire-compatible, over the ledger (DESIGN sections 4 and 5)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, local
from typing import TYPE_CHECKING, Any
from uuid import UUID

import redis
from dramatiq import Actor, Broker, Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Interrupt,
    Middleware,
    Pipelines,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.results import Results
from sqlalchemy import bindparam, exc, exists, or_, select

from actors.runtime.bell import Bell
from actors.runtime.consumer import BlockingConsumer, Delivery, InFlight
from actors.runtime.cron import Alarm, Periodic, alarm_of, schedules_of
from actors.runtime.current import Attempt, running
from actors.runtime.event_loop import EventLoop
from actors.runtime.identifiers import new_id
from actors.runtime.job_type import JobActor
from actors.runtime.keys import NAMESPACE, acks_key, all_keys, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.messages import job_id_of
from actors.runtime.recorder import Recorder
from actors.runtime.resources import Resources
from actors.runtime.results import LedgerResults
from actors.runtime.retries import LedgerRetries
from actors.runtime.sending import DEFAULT_TENANT, NewJob, offers_itself, prepare, store
from actors.runtime.ticker import Ticker
from models import ledger
from models.rows import all_rows
from models.settings import Settings
from models.tables import is_pending, is_running, jobs

if TYPE_CHECKING:
    from actors.runtime.liveness import Liveness

log = get_logger("broker")

#: Whether anything in a queue is live; asked in three parts, because each of these has its own index.
_here = jobs.c.queue == bindparam("queue")
_LIVE_IN_QUEUE = select(
    or_(
        exists().where(_here, is_pending, jobs.c.offered_at.is_(None)),
        exists().where(_here, is_pending, jobs.c.offered_at.is_not(None)),
        exists().where(_here, is_running),
    )
)


def default_middleware(broker: CallboardBroker) -> list[Middleware]:
    """The whole list, a reason a line; extra middleware is added behind it with ``add_middleware``."""
    return [
        Recorder(broker),  # first: its before hook runs with no timer armed, its after hook when all is decided
        AgeLimit(),  # Dramatiq's defaults, in Dramatiq's order
        TimeLimit(),
        ShutdownNotifications(),
        Callbacks(),
        Pipelines(),
        LedgerRetries(),  # the stock decision, the ledger's count
        EventLoop(),  # async actors
        CurrentMessage(),
        Periodic(),  # periodiq's actor option, without its rule that drops late ticks
        # The stock class itself: Dramatiq tests for that, and a subclass makes it warn once per job.
        Results(backend=LedgerResults(broker.resources), store_results=True),  # type: ignore[no-untyped-call]
    ]


class CallboardBroker(RedisBroker):
    """Every message is a row before it is anything else; Redis only rings the bell.

    Nothing is connected, and no setting read, before the first use.

    Args:
      middleware: replaces :func:`default_middleware`; a Recorder must stand first.
    """

    def __init__(self, *, middleware: list[Middleware] | None = None) -> None:
        self.resources = Resources()
        self.bell = Bell(self.resources)
        self.in_flight = InFlight()
        self.ticker = Ticker(self)
        #: Set when this process was asked to stop: no new claims, no more fetches.
        self.stopping = Event()
        #: This process takes suspects, and only them.
        self.quarantine = False
        self.liveness: Liveness | None = None
        #: Whether a log line has said which Redis this process talks to, since it last failed to.
        self.redis_is_known = False
        self._hooks = local()
        # RedisBroker.__init__ would open a client now; what it sets is set here.
        Broker.__init__(self, middleware=[])
        for each in default_middleware(self) if middleware is None else middleware:
            self.add_middleware(each)
        self.broker_id = str(new_id())
        self.namespace = NAMESPACE
        self.maintenance_chance = 0  # the rescuer knows who is dead; stock maintenance guesses, and runs KEYS
        self.heartbeat_timeout = 60_000
        self.dead_message_ttl = 7 * 86_400_000
        self.queues = set()

    # -- settings and connections

    @property
    def settings(self) -> Settings:
        """The process's settings. Raises SettingsError."""
        return self.resources.settings

    @property
    def client(self) -> redis.Redis:  # type: ignore[override]
        """The Redis client, as RedisBroker has it."""
        return self.resources.redis

    @property
    def worker_id(self) -> UUID | None:
        """This process's worker, once it has signed in."""
        return self.liveness.worker_id if self.liveness is not None else None

    def close(self) -> None:
        """Push what waits, then close every connection; the broker can be used again afterwards."""
        self.bell.flush()
        self.resources.close()

    # -- declaring

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Declare an actor; its messages get UUIDv7 ids, which keep the ledger's indexes small.

        Raises:
          ValueError: it has a schedule whose name another schedule of the tenant has.
        """
        build = actor.message_with_options

        def message_with_options(**options: Any) -> Message[Any]:
            return build(**options)._replace(message_id=str(new_id()))

        actor.message_with_options = message_with_options  # type: ignore[method-assign]
        if "periodic" in actor.options:
            actor.options["periodic"] = alarm_of(actor.options["periodic"])
            schedules_of([*self.actors.values(), actor])
        super().declare_actor(actor)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue. There is no delay queue: what is not due waits in Postgres."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    @property
    def consumer_class(self) -> type[BlockingConsumer]:
        """The consumer that blocks for work."""
        return BlockingConsumer

    # -- sending

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Record and send one message.

        Args:
          delay: milliseconds; any length, since the wait is in Postgres.

        Returns: the message, with the id of its job.

        Raises:
          DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy, UnknownTenant: nothing was stored.
        """
        actor = self.actors.get(message.actor_name)
        if "scheduled_at" in message.options and actor is not None and isinstance(actor.options.get("periodic"), Alarm):
            self.ticker.wake(message.options["scheduled_at"])  # periodiq's word for "now": which ticks, SQL knows
            return message
        return self.enqueue_many([(message, delay)])[0]

    def enqueue_many(
        self, messages: Sequence[tuple[Message[Any], int | None]], *, session: Any = None
    ) -> list[Message[Any]]:
        """Record and send messages in one transaction: the caller's, if a session is given.

        Inside the hooks that follow an actor, nothing is sent: it is kept and enters the ledger with the finish of
        the attempt, if that is still this worker's to make.
        """
        attempt: Attempt | None = getattr(self._hooks, "attempt", None)
        if attempt is not None:
            return [self._hold(attempt, message, delay) for message, delay in messages]
        tenant = self._inherited_tenant()
        rings = offers_itself(session)
        new: list[NewJob] = []
        for given, delay in messages:
            message = given.copy()  # other middleware may write into its options
            self.emit_before("enqueue", message, delay)
            new.append(prepare(self, message, delay, offer=rings, tenant_id=tenant))
        duplicates = store(self, new, session)
        sent = []
        for job, (_, delay) in zip(new, messages, strict=True):
            message = job.message
            if holder := duplicates.get(job.columns["id"]):
                message = message.copy(message_id=str(holder), options={"duplicate": True})
            self.emit_after("enqueue", message, delay)
            sent.append(message)
        return sent

    def _hold(self, attempt: Attempt, message: Message[Any], delay: int | None) -> Message[Any]:
        if job_id_of(message.message_id)[0] == attempt.id:
            attempt.retry_delay_ms = delay or 0  # Retries wants this job again: the finish makes it so
        else:
            message = message.copy()
            self.emit_before("enqueue", message, delay)
            attempt.held.append((message, delay))
        return message

    @staticmethod
    def _inherited_tenant() -> str:
        """What an actor sends belongs to the tenant it works for."""
        job = running.get()
        return job.tenant_id if job is not None else DEFAULT_TENANT

    def checked_payload(self, message: Message[Any]) -> Message[Any]:
        """The message with its payload validated and normal, if its actor is a job type. Raises PayloadRefused."""
        actor = self.actors.get(message.actor_name)
        if not isinstance(actor, JobActor):
            return message
        kind = actor.job_type
        return message.copy(args=(), kwargs=kind.kwargs_of(kind.bound(message.args, message.kwargs), wire=False))

    def max_attempts_of(self, actor: Actor[Any, Any] | None, options: dict[str, Any]) -> int | None:
        """How many attempts a message may have when its sender does not say; None: no cap."""
        stock = next((m for m in self.middleware if isinstance(m, LedgerRetries)), None)
        declared = actor.options if actor is not None else {}
        if declared.get("retry_when", stock.retry_when if stock else None) is not None:
            return None
        retries: int | None
        if "max_retries" in options:
            retries = options["max_retries"]
        elif "max_retries" in declared:
            retries = declared["max_retries"]
        elif isinstance(actor, JobActor):
            return self.settings.max_attempts
        else:
            retries = stock.max_retries if stock else 0
        return None if retries is None else max(int(retries), 0) + 1

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As the stock method; what hooks send after an actor has ended is held for the finish."""
        if signal != "process_message":
            super().emit_after(signal, *args, **kwargs)
            return
        while True:
            try:
                with self._holding(args[0]):
                    super().emit_after(signal, *args, **kwargs)
                return
            except Interrupt:
                # A time limit that fires among the hooks of a success makes Dramatiq run them again, as those of a
                # failure; among those of a failure nobody would, and the job would stay RUNNING.
                if "exception" not in kwargs:
                    raise
                if isinstance(args[0], Delivery) and args[0].attempt is not None:
                    args[0].options["retries"] = args[0].attempt.number - 1

    @contextmanager
    def _holding(self, message: Any) -> Iterator[None]:
        attempt = message.attempt if isinstance(message, Delivery) else None
        if attempt is not None:
            self._hooks.attempt = attempt
            attempt.finishing = True
            # Hooks that were interrupted run again, as those of a failure: only what they decide then counts.
            attempt.held.clear()
            attempt.retry_delay_ms = None
            if self.liveness is not None:
                self.liveness.marks.ended(attempt.slot)
        try:
            yield
        finally:
            self._hooks.attempt = None

    # -- what a worker needs

    def write_report(self, attempt: Attempt) -> None:
        """Write an attempt's progress and log lines; what cannot be written now is dropped with a line in the log."""
        progress, lines = attempt.take_report()
        if progress is None and lines is None:
            return
        values = {"job_id": attempt.id, "token": attempt.token, "new_progress": progress, "new_lines": lines}
        try:
            with self.resources.engine.connect() as connection:
                rows = all_rows(connection.execute(ledger.report_progress(), values))
        except exc.DBAPIError as error:
            log.warning("progress.dropped", job_id=str(attempt.id), error=str(error.orig))
            return
        self.bell.announce(rows)

    # -- Dramatiq's own interface, answered from the ledger

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Wait until nothing in a queue is live: scheduled and retrying jobs count too.

        Args:
          interval, timeout: milliseconds.

        Raises:
          QueueJoinTimeout: something was still live.
        """
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while True:
            with self.resources.engine.connect() as connection:
                if not connection.execute(_LIVE_IN_QUEUE, {"queue": queue_name}).scalar_one():
                    return
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]
            time.sleep(interval / 1000)

    def flush(self, queue_name: str) -> None:
        """Drop what waits in a queue: its PENDING jobs are CANCELLED, its lists in Redis emptied."""
        with self.resources.engine.connect() as connection:
            rows = all_rows(connection.execute(ledger.cancel_queue(), {"in_queue": queue_name}))
        self.bell.announce(rows)
        self.resources.redis.delete(*all_keys(queue_name))

    def flush_all(self) -> None:
        """:meth:`flush` for every declared queue."""
        for queue_name in sorted(self.queues):
            self.flush(queue_name)

    def acknowledge(self, queue: str, identifiers: Iterable[str]) -> None:
        """Tell Redis that messages are dealt with; what it does not hear now it hears with the next."""
        pending = self.in_flight.to_acknowledge(queue, identifiers)
        try:
            with self.resources.redis.pipeline(transaction=False) as pipe:
                pipe.srem(acks_key(self.broker_id, queue), *pending)
                pipe.hdel(messages_key(queue), *pending)
                pipe.execute()
        except redis.RedisError as error:
            self.in_flight.not_acknowledged(queue, pending)
            log.warning("ack.waits", queue=queue, messages=len(pending), error=str(error))


def make_broker() -> CallboardBroker:
    """A broker that takes everything from the environment, at first use."""
    return CallboardBroker()
