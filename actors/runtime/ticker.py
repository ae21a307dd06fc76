"""The ticker: due ticks become jobs, each once, whoever comes first (DESIGN section 7).

Maintenance runs it every second in each worker process, and periodiq wakes it at each tick; either alone is enough,
and any number may run. What could not be decided, because of an error or of nobody there, is due until it is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from dramatiq import Message
from sqlalchemy import Connection, exc

from actors.runtime import ticking
from actors.runtime.cron import Schedule, schedules_of
from actors.runtime.errors import UniqueKeyBusy
from actors.runtime.logs import get_logger
from models import schedules as sql
from models.arrays import parameters
from models.rows import all_rows

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("ticker")

#: A waker's clock may be ahead of the database's by this much.
AHEAD: Final = timedelta(minutes=1)
#: Seconds between two tries of a tick that periodiq asked for.
RETRY_S: Final = 1.0
#: Seconds between two declarations: of a schedule whose tenant did not exist, and of what a process with other code,
#: restarted in the middle of a deployment, has changed or retired.
REDECLARE_S: Final = 60.0


class Ticker:
    """Makes the ticks of the schedules whose actors this process knows.

    Args:
      clock: tells the time instead of the database.
    """

    def __init__(self, broker: CallboardBroker, clock: Callable[[], datetime] | None = None) -> None:
        self._broker = broker
        self._clock = clock
        self._declared: set[tuple[str, str]] = set()
        self._declare_again = 0.0
        self._failing: dict[tuple[str, str], str] = {}
        self._stale: set[tuple[str, str]] = set()

    def run_once(self, at: datetime | None = None, *, wait: bool = False) -> int:
        """Make what is due; returns how many jobs were sent.

        Args:
          at: the tick that somebody was woken for, whose clock may be a little ahead.
          wait: for other tickers that are at the same schedules; else what they hold is theirs.

        Raises:
          SQLAlchemyError, UniqueKeyBusy: something is still due.
        """
        declared = schedules_of(list(self._broker.actors.values()))
        with self._broker.resources.engine.connect() as connection:
            now = self._now(connection, at)
            self._declare(connection, declared, now)
            if not declared:
                return 0
            actors = sorted({schedule.actor.actor_name for schedule in declared.values()})
            due = connection.execute(sql.due(), {"moment": now, "actors": actors}).all()
        sent, left = 0, None
        for tenant_id, name in due:
            try:
                sent += ticking.decide(self._broker, tenant_id, name, now, wait=wait)
                self._failing.pop((tenant_id, name), None)
            except exc.OperationalError:
                raise  # Postgres is away, for all of them
            except Exception as error:  # noqa: BLE001 - one schedule must not keep the others from their ticks
                left = error
                self._failed((tenant_id, name), error)
        if isinstance(left, (exc.SQLAlchemyError, UniqueKeyBusy)):
            raise left
        return sent

    def wake(self, scheduled_at: str) -> None:
        """Make what is due, however long it takes: periodiq ends at an error, and asks for each tick but once."""
        try:
            at = datetime.fromisoformat(scheduled_at).astimezone(UTC)
        except (TypeError, ValueError):
            at = None
        while True:
            try:
                self.run_once(at, wait=True)
                return
            except (exc.SQLAlchemyError, UniqueKeyBusy) as error:
                log.warning("tick.waits", scheduled_at=scheduled_at, error=str(error).partition("\n")[0])
                time.sleep(RETRY_S)

    def run_now(self, tenant_id: str, name: str) -> Message[Any]:
        """Run a schedule once, by hand; see :func:`actors.runtime.ticking.run_now`."""
        with self._broker.resources.engine.connect() as connection:
            now = self._now(connection)
        return ticking.run_now(self._broker, tenant_id, name, now)

    def report_stale(self) -> None:
        """Log each schedule whose ticks nobody makes, when it becomes so; and forget old ticks."""
        with self._broker.resources.engine.connect() as connection:
            stale = all_rows(connection.execute(sql.stale_schedules()))
            connection.execute(sql.forget_ticks())
        for row in stale:
            if (row["tenant_id"], row["name"]) not in self._stale:
                said = {"actor": row["actor"], "due_at": row["next_tick_at"].isoformat()}
                log.error("schedule.stale", tenant_id=row["tenant_id"], schedule=row["name"], **said)
        self._stale = {(row["tenant_id"], row["name"]) for row in stale}

    def _now(self, connection: Connection, at: datetime | None = None) -> datetime:
        now: datetime = self._clock() if self._clock else connection.execute(sql.clock()).scalar_one()
        return now if at is None else max(now, min(at, now + AHEAD))

    def _failed(self, key: tuple[str, str], error: Exception) -> None:
        # The next round is a second away: it says nothing new.
        if self._failing.get(key) != str(error):
            log.error("schedule.failed", tenant_id=key[0], schedule=key[1], exc_info=error)
        self._failing[key] = str(error)

    def _declare(self, connection: Connection, declared: Mapping[tuple[str, str], Schedule], now: datetime) -> None:
        """Write this process's schedules; retire those that are gone from code that it has.

        Again and again: of two processes with different code the one that lives on has the last word.
        """
        if time.monotonic() < self._declare_again:
            return
        if declared:
            rows = [_row(schedule, now) for schedule in declared.values()]
            lists = parameters("new", **{name: [row[name] for row in rows] for name in rows[0]})
            self._declared |= {(row[0], row[1]) for row in connection.execute(sql.declare(), lists)}
        gone = [row for row in all_rows(connection.execute(sql.declared())) if self._is_gone(row, declared)]
        if gone:
            keys = {name: [row[name] for row in gone] for name in ("tenant_id", "name")}
            for tenant_id, name in connection.execute(sql.retire(), parameters("gone", **keys)):
                log.warning("schedule.retired", tenant_id=tenant_id, schedule=name)
        for tenant_id, name in sorted(declared.keys() - self._declared):
            log.error("schedule.unknown_tenant", tenant_id=tenant_id, schedule=name)
        self._declare_again = time.monotonic() + REDECLARE_S

    def _is_gone(self, row: Mapping[str, Any], declared: Mapping[tuple[str, str], Schedule]) -> bool:
        """Whether a schedule was declared in code that this process has, and is there no more."""
        if (row["tenant_id"], row["name"]) in declared:
            return False
        return row["actor"] in self._broker.actors or (row["module"] in sys.modules and row["module"] != "__main__")


def _row(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """The columns of a declared schedule, which begins now."""
    cron = schedule.cron
    return {
        "tenant_id": schedule.tenant_id,
        "name": schedule.name,
        "actor": schedule.actor.actor_name,
        "module": schedule.actor.fn.__module__,
        "expression": cron.expression,
        "tz": cron.zone.key,
        "args": json.dumps(cron.args),
        "kwargs": json.dumps(cron.kwargs),
        "options": json.dumps(cron.options),
        "missed": cron.missed,
        "at_most": cron.at_most,
        "overlap": cron.overlap,
        "last_tick_at": now,
        "next_tick_at": cron.calendar().next(now),
    }
