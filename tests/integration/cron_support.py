"""A ticker whose clock the test sets, on a broker whose actors the test declares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import pytest
from sqlalchemy import Engine, select

from actors.runtime.broker import CallboardBroker
from actors.runtime.cron import Cron
from actors.runtime.ticker import Ticker
from models import schedules as sql
from models.arrays import parameters
from models.rows import all_rows
from models.tables import jobs, schedules, ticks
from tests.integration.ledger_support import Book, Row

#: A Monday, at midnight.
MONDAY = datetime(2030, 1, 7, tzinfo=UTC)


class Clock:
    """The time of a test."""

    def __init__(self, now: datetime = MONDAY) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Stand(Book):
    """A ledger, a broker, and a ticker by the test's clock."""

    def __init__(self, engine: Engine, broker: CallboardBroker) -> None:
        super().__init__(engine)
        self.broker = broker
        self.clock = Clock()
        self.ticker = Ticker(broker, self.clock)
        broker.ticker = self.ticker

    def actor(self, *periodic: Cron, name: str = "act", **options: Any) -> Any:
        """An actor with these schedules, in place of the one that had its name."""
        self.broker.actors.pop(name, None)
        return dramatiq.actor(
            lambda *args, **kwargs: None, broker=self.broker, actor_name=name, periodic=list(periodic), **options
        )

    def restart(self) -> Ticker:
        """Another process's ticker, with the same actors."""
        self.ticker = Ticker(self.broker, self.clock)
        return self.ticker

    def at(self, **later: float) -> int:
        """Run the ticker once, so much later than :data:`MONDAY`; returns how many jobs it sent."""
        self.clock.now = MONDAY + timedelta(**later)
        return self.ticker.run_once()

    def schedule(self, name: str = "act", tenant: str = "default") -> Row:
        """A schedule's row."""
        (row,) = self.execute(select(schedules).where(schedules.c.name == name, schedules.c.tenant_id == tenant))
        return row

    def ticks(self, name: str = "act") -> list[Row]:
        """A schedule's ticks, oldest first."""
        with self.engine.connect() as connection:
            return all_rows(connection.execute(select(ticks).where(ticks.c.schedule == name).order_by(ticks.c.tick_at)))

    def outcomes(self, name: str = "act") -> list[tuple[str, str]]:
        """What became of each tick: (time, outcome)."""
        return [(f"{tick['tick_at']:%H:%M}", tick["outcome"]) for tick in self.ticks(name)]

    def sent(self, name: str = "act") -> list[str]:
        """The times of the ticks that have a job, checked against the jobs themselves."""
        made = {row["id"]: row["options"]["tick"] for row in self.execute(select(jobs)) if "tick" in row["options"]}
        found = [tick for tick in self.ticks(name) if tick["outcome"] == "sent"]
        assert [made[tick["job_id"]] for tick in found] == [
            {"schedule": name, "at": tick["tick_at"].isoformat()} for tick in found
        ]
        mine = [options for options in made.values() if options["schedule"] == name]
        assert len(mine) == len(found), "every job has its tick"
        return [f"{tick['tick_at']:%H:%M}" for tick in found]

    def finish(self, job: Any = None) -> None:
        """End the only live job, or this one."""
        live = [row["id"] for row in self.rows() if row["status"] in ("PENDING", "RUNNING")]
        (job,) = [job] if job else live
        self.change(job, status="COMPLETED")


@pytest.fixture
def stand(engine: Engine, broker: CallboardBroker) -> Stand:
    """One of this test's own; say ``stand = cron_support.stand``."""
    return Stand(engine, broker)


def declare(engine: Engine, tenant: str, name: str, **changes: Any) -> None:
    """Write a schedule as a process that declares it would: due at the next full hour unless it says otherwise."""
    now = datetime.now(UTC)
    row = {
        "tenant_id": tenant,
        "name": name,
        "actor": "sleep",
        "module": "elsewhere",
        "expression": "0 * * * *",
        "tz": "UTC",
        "args": "[]",
        "kwargs": '{"delay_ms": 5}',
        "options": "{}",
        "missed": "once",
        "at_most": 100,
        "overlap": "allow",
        "last_tick_at": now,
        "next_tick_at": now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1),
        **changes,
    }
    with engine.connect() as connection:
        connection.execute(sql.declare(), parameters("new", **{column: [value] for column, value in row.items()}))
