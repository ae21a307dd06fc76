"""The rescuer: who is dead, and what becomes of their jobs (DESIGN section 3).

Two kinds of evidence. On this host: the lock of a process's marks is free, so the process is dead for certain,
and its marks tell what it was in. From anywhere: its advisory lock is free, or it has been silent for a lease.
Only the first can tell a crash from a loss, so a worker of another host gets a moment for its own host to speak.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import Connection, bindparam, select

from actors.runtime import marks
from actors.runtime.keys import acks_key, job_of, list_key, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.marks import Testimony
from models import ledger, liveness
from models.engine import transaction
from models.offers import withdraw_offers
from models.rows import all_rows
from models.tables import workers

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("rescuer")

#: Seconds that a worker's lock must be seen free before it is dead, when its own host has not spoken: long enough
#: to take the lock again after a cut connection, short enough for a lost host (keepalives take up to 12 s more).
GRACE_S = 3.0
#: Seconds after Postgres was away in which nobody is overdue: what ended meanwhile is about to be written.
AFTERMATH_S = 30.0
#: Seconds that the marks of another database's dead worker are left for those who know it.
STRANGERS_KEPT_S = 86_400
NOTHING = Testimony([], [])


def _log_taken_back(rows: Iterable[Any]) -> None:
    for row in rows:
        log.warning(
            "job.taken_back",
            job_id=str(row["id"]),
            tenant_id=row["tenant_id"],
            actor=row["actor"],
            attempts=row["attempts"],
            status=row["status"],
            reason=row["error"],
        )


class Rescuer:
    """One duty of maintenance; several may run at once."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._free_since: dict[UUID, float] = {}
        self._strangers: set[UUID] = set()

    def run_once(self) -> int:
        """Judge every worker, take back jobs of the dead and those past their deadline; returns how many."""
        taken = self.report_local_deaths()
        with self._broker.resources.engine.connect() as connection:
            for worker in self._presumed_dead(connection):
                taken += self._bury(worker, "lost", NOTHING)
            taken += self._take_back(connection)
            if not self._all_fell(AFTERMATH_S):
                taken += self._take_back(connection, overdue=True)
        return taken

    def report_local_deaths(self) -> int:
        """Tell the ledger of processes that died on this host; cheap when none did. Returns jobs taken back."""
        taken = 0
        for worker, path in marks.left_behind():
            if worker in self._strangers:
                self._tidy(path)
                continue
            try:
                testimony = marks.read(path)
            except OSError:
                continue  # a sibling was faster
            if self._is_ours(worker):
                taken += self._bury(worker, "stopped" if testimony.asked_to_stop else "crashed", testimony)
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            # Of another database, whose own workers will report it: ask no more, and tidy up after a day.
            self._strangers.add(worker)
        return taken

    @staticmethod
    def _tidy(path: Path) -> None:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STRANGERS_KEPT_S:
                path.unlink()

    def _is_ours(self, worker: UUID) -> bool:
        """Marks lie side by side on a host; only our database knows our workers."""
        with self._broker.resources.engine.connect() as connection:
            known = select(workers.c.id).where(workers.c.id == bindparam("worker"))
            return connection.execute(known, {"worker": worker}).one_or_none() is not None

    def _presumed_dead(self, connection: Connection) -> list[UUID]:
        settings = self._broker.resources.settings
        lock_class = liveness.lock_class(settings.db_schema)
        now, dead, free = time.monotonic(), [], {}
        for row in connection.execute(liveness.roll_call(), {"lock_class": lock_class}).mappings():
            if row["held"]:
                # Alive, unless its clockwork stands still for a whole lease (a stopped process, a starved host).
                if row["silent_s"] > settings.lease_s:
                    dead.append(row["id"])
                continue
            back = (row["restarted"] and row["server_up_s"] < settings.lease_s) or self._all_fell(settings.lease_s)
            if back and row["silent_s"] <= settings.lease_s:
                # Postgres came back a moment ago, or another took its place: every lock fell, the workers did not.
                continue
            since = free[row["id"]] = self._free_since.get(row["id"], now)
            if now - since >= GRACE_S:
                dead.append(row["id"])
        self._free_since = free
        return dead

    def _all_fell(self, lease_s: float) -> bool:
        """Whether our own lock had to be taken again lately, as everybody's after a fail-over."""
        liveness_ = self._broker.liveness
        retaken_at = liveness_.retaken_at if liveness_ is not None else None
        return retaken_at is not None and time.monotonic() - retaken_at < lease_s

    def _bury(self, worker: UUID, cause: str, testimony: Testimony) -> int:
        """Declare dead and take back, in one transaction: nobody sees the one without the other."""
        with transaction(self._broker.resources.engine).begin() as connection:
            buried = connection.execute(liveness.declare_dead(), {"worker": worker, "cause": cause}).one_or_none()
            rows: list[Any] = []
            if buried is not None:
                unstarted: list[str] = []
                if cause != "lost":
                    running = connection.execute(liveness.running_of(), {"worker": worker}).all()
                    told = {*testimony.started, *testimony.ended}
                    unstarted = [str(r.attempt_token) for r in running if str(r.attempt_token) not in told]
                crashed = testimony.started if buried.death == "crashed" else []
                rows = self._rescue(connection, crashed, unstarted)
        if buried is None:
            return 0
        log.warning("worker.dead", worker=str(worker), cause=buried.death, pid=buried.pid, jobs=len(rows))
        _log_taken_back(rows)
        self._broker.bell.announce(rows)
        self._return_prefetched(worker)
        return len(rows)

    def _rescue(self, connection: Connection, crashed: list[str], unstarted: list[str], **how: bool) -> list[Any]:
        result = connection.execute(ledger.rescue(**how), {"crashed": crashed, "unstarted": unstarted})
        return all_rows(result)

    def _take_back(self, connection: Connection, *, overdue: bool = False) -> int:
        """The rest: claims that raced with a declaration of death, rows that were held, deadlines."""
        rows = self._rescue(connection, [], [], overdue=overdue)
        _log_taken_back(rows)
        self._broker.bell.announce(rows)
        return len(rows)

    def _return_prefetched(self, worker: UUID) -> None:
        """What the dead worker had fetched and not claimed is offered again; a stock message goes back as it is."""
        redis: Any = self._broker.resources.redis
        try:
            # By its keys, not by our own queues: it may have consumed others.
            prefix = acks_key(worker, "")
            for key in list(redis.scan_iter(match=f"{prefix}*", count=1000)):
                acks = key.decode()
                queue = acks.removeprefix(prefix)
                fetched = [identifier.decode() for identifier in redis.smembers(acks)]
                jobs = [str(job) for job in map(job_of, fetched) if job is not None]
                if jobs:
                    with self._broker.resources.engine.connect() as connection:
                        connection.execute(withdraw_offers(), {"ids": jobs})
                for identifier in fetched:
                    if job_of(identifier) is not None:
                        redis.hdel(messages_key(queue), identifier)
                    elif redis.hexists(messages_key(queue), identifier):
                        redis.rpush(list_key(queue, 0), identifier)
                redis.delete(acks)
        except RedisError as error:
            log.warning("prefetched.left", worker=str(worker), error=str(error))  # the sweep finds them
