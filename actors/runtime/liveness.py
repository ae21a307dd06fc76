"""A worker process's proof of life: sign-in, session lock, beat; and what it learns on the way (cancels, fences)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from dramatiq import __version__ as dramatiq_version
from sqlalchemy import Connection, exc, text

from actors.runtime.current import Attempt
from actors.runtime.identifiers import new_id
from actors.runtime.logs import get_logger
from actors.runtime.marks import Marks, host_id, hostname
from models import liveness
from models.engine import make_engine, server_version, whereabouts
from models.settings import Settings

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("liveness")

#: Seconds between two beats.
BEAT_S = 2.0
#: Seconds between two looks at the running attempts: how fast a cancel is heard.
LOOK_S = 0.5
#: Exit code of a quarantine child that a job has got stuck in.
STUCK = 70
#: Seconds that one statement of this thread may take.
STATEMENT_TIMEOUT_MS = "5000"


class Liveness:
    """One thread, one connection of its own, one row of ``workers``, one advisory lock, one file of marks."""

    def __init__(self, broker: CallboardBroker, *, threads: int, queues: list[str], kind: str = "worker") -> None:
        self._broker = broker
        self._settings: Settings = broker.resources.settings
        self._threads = threads
        self._queues = sorted(queues)
        self._kind = kind
        self._engine = make_engine(self._settings, pool_size=0, statement_timeout=STATEMENT_TIMEOUT_MS)
        self._connection: Connection | None = None
        self._attempts: dict[UUID, Attempt] = {}
        self._lock = Lock()
        self._stopping = Event()
        self._ended = Event()
        self._signed_in = Event()
        self._asked_to_stop = False
        self._locked_row: int | None = None
        #: When the lock had to be taken again (monotonic seconds): what made it fall may have made everybody's fall.
        self.retaken_at: float | None = None
        self.worker_id: UUID = new_id()
        self.marks = Marks(self.worker_id, threads + 4)
        self._thread = Thread(target=self._run, name="callboard-liveness", daemon=True)

    # -- what the worker's threads use

    def start(self) -> None:
        """Sign in and begin to beat. Raises what Postgres raised when it cannot be reached at all."""
        self._connect()
        self._thread.start()

    def start_later(self) -> None:
        """Begin without having signed in: the thread tries until Postgres answers."""
        self._thread.start()

    def wait_signed_in(self, seconds: float) -> bool:
        """Whether this process may claim; waits a little when it cannot right now."""
        return self._signed_in.wait(seconds)

    def began(self, attempt: Attempt) -> None:
        """An attempt has started in this process."""
        attempt.slot = self.marks.started(attempt.token)
        with self._lock:
            self._attempts[attempt.token] = attempt

    def ended(self, attempt: Attempt) -> None:
        """The outcome of an attempt is written, or nobody will write it."""
        with self._lock:
            self._attempts.pop(attempt.token, None)
        self.marks.idle(attempt.slot)

    def running(self) -> list[Attempt]:
        """The attempts that this process is in."""
        with self._lock:
            return list(self._attempts.values())

    def asked_to_stop(self) -> None:
        """A signal says so: noted where it outlives the process, since a signal handler may wait for nothing."""
        self._asked_to_stop = True
        self.marks.asked_to_stop()

    def announce_stop(self) -> None:
        """This process was asked to stop: what it leaves behind is released, not crashed."""
        self._stopping.set()
        with contextlib.suppress(exc.SQLAlchemyError), self._broker.resources.engine.connect() as connection:
            connection.execute(liveness.announce_stop(), {"worker": self.worker_id})

    def stop(self) -> None:
        """Sign out; only when every thread has ended is there nothing left to rescue."""
        self._stopping.set()
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(5)
        left = self.running()
        with contextlib.suppress(exc.SQLAlchemyError), self._broker.resources.engine.connect() as connection:
            connection.execute(liveness.announce_stop(), {"worker": self.worker_id})
            if not left:
                connection.execute(liveness.declare_dead(), {"worker": self.worker_id, "cause": "stopped"})
        self._close()
        self._engine.dispose()
        if not left:
            self.marks.close()

    # -- the thread

    def _run(self) -> None:
        beat_at = 0.0
        while not self._ended.wait(LOOK_S):
            try:
                if self._connection is None:
                    self._connect()
                if time.monotonic() >= beat_at:
                    self._beat()
                    beat_at = time.monotonic() + BEAT_S
                self._look()
            except (exc.SQLAlchemyError, psycopg.Error) as error:
                log.warning("worker.out_of_touch", worker=str(self.worker_id), error=str(error).splitlines()[0])
                self._close()
            except Exception:
                log.exception("worker.liveness_failed", worker=str(self.worker_id))
                self._close()

    def _connect(self) -> None:
        connection = self._engine.connect()
        try:
            if self._locked_row is not None and self._take_again(connection):
                self._connection = connection
                self._signed_in.set()
                return
            self._sign_in(connection)
            self._connection = connection
        except BaseException:
            connection.close()
            raise

    def _take_again(self, connection: Connection) -> bool:
        """After a lost connection: the same lock and the same name, if nobody has declared us dead meanwhile."""
        taken: Any = connection.execute(liveness.take_lock(), self._lock_key()).scalar_one()
        alive = connection.execute(liveness.beat(), {"worker": self.worker_id}).one_or_none()
        if taken and alive is not None:
            self.retaken_at = time.monotonic()
            log.info("worker.lock_taken_again", worker=str(self.worker_id))
            return True
        if alive is not None:
            # The server has not noticed yet that our old connection is gone; try again on the next round.
            raise exc.OperationalError("advisory lock", {}, RuntimeError("the old session still holds the lock"))
        return False

    def _sign_in(self, connection: Connection) -> None:
        if self._locked_row is not None:
            # Declared dead: every attempt that runs here is fenced off. Work goes on under a new name.
            for attempt in self.running():
                attempt.lost = True
                attempt.stop.set()
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
            old, self.worker_id = self.marks, new_id()
            self.marks = Marks(self.worker_id, self._threads + 4)
            if self._asked_to_stop:
                self.marks.asked_to_stop()
            old.close()
            for attempt in self.running():
                attempt.slot = -1
            log.warning("worker.signed_in_again", worker=str(self.worker_id))
        values = {
            "id": self.worker_id,
            "kind": self._kind,
            "host_id": host_id(),
            "hostname": hostname(),
            "pid": os.getpid(),
            "threads": self._threads,
            "queues": self._queues,
            "version": f"dramatiq {dramatiq_version}",
        }
        # The lock first, then the row: a row without its lock would be found dead at once.
        table = {"table": f"{self._settings.db_schema}.workers"}
        reserved: Any = connection.execute(liveness.reserve_lock_key(), table).scalar_one()
        self._locked_row = int(reserved)
        if not connection.execute(liveness.take_lock(), self._lock_key()).scalar_one():
            raise RuntimeError("a fresh advisory lock is taken: another program uses Callboard's lock class")
        connection.execute(liveness.sign_in(), {**values, "lock_key": self._locked_row})
        self._broker.broker_id = str(self.worker_id)
        self._signed_in.set()
        log.info(
            "worker.signed_in",
            worker=str(self.worker_id),
            kind=self._kind,
            threads=self._threads,
            queues=self._queues,
            postgres=whereabouts(connection),
            server_version=server_version(connection),
        )

    def _lock_key(self) -> dict[str, int | None]:
        return {"lock_class": liveness.lock_class(self._settings.db_schema), "lock_key": self._locked_row}

    def _beat(self) -> None:
        assert self._connection is not None
        if self._connection.execute(liveness.beat(), {"worker": self.worker_id}).one_or_none() is None:
            self._signed_in.clear()
            self._sign_in(self._connection)

    def _look(self) -> None:
        """Hear of cancels and lost leases; write progress that has waited."""
        assert self._connection is not None
        attempts = self.running()
        # Also when nothing runs: it is how a cut connection is noticed soon.
        rows = self._connection.execute(liveness.running_of(), {"worker": self.worker_id}).all()
        stored = {row.attempt_token: row.cancel_requested for row in rows}
        for attempt in attempts:
            if attempt.token not in stored:
                if attempt in self.running() and not attempt.finishing:
                    self._note_loss(attempt)
            elif stored[attempt.token]:
                attempt.stop.set()
            if attempt.report_is_due:
                self._broker.write_report(attempt)

    def _note_loss(self, attempt: Attempt) -> None:
        """The ledger has taken this attempt back; its thread is told, and does not listen when it is stuck."""
        if not attempt.lost:
            attempt.lost = True
            attempt.stop.set()
            log.warning("attempt.lease_lost", job_id=str(attempt.id), attempt=attempt.number)
        # The ledger's clock began before ours, so this may be noticed some rounds later.
        if attempt.overdue and not self._stopping.is_set():
            log.error("worker.lost_a_thread", worker=str(self.worker_id), job_id=str(attempt.id))
            self._stopping.set()
            if self._kind == "quarantine":
                os._exit(STUCK)  # it is the main thread, so no handler would run; the attempt is not its own any more
            # Nothing interrupts that thread: drain, and be replaced.
            os.kill(os.getpid(), signal.SIGTERM)

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(exc.SQLAlchemyError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None
