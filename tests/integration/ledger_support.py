"""The ledger's verbs as plain calls, and one database for all tests of a module.

A clone per test costs more than most of these tests: a module that says ``module_database = …`` and
``database_url = …`` (both from here) has one clone, emptied before every test.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, insert, select, text, update

from actors.runtime.identifiers import new_id
from models import ledger
from models.arrays import parameters
from models.engine import transaction
from models.rows import all_rows
from models.tables import jobs, tenants, workers
from tests.conftest import new_database

Row = dict[str, Any]

NEW = {
    "tenant_id": "default",
    "actor": "act",
    "queue": "default",
    "priority": 0,
    "args": "[]",
    "kwargs": "{}",
    "options": "{}",
    "message_timestamp": 1_700_000_000_000,
    "max_attempts": 3,
    "run_at": None,
    "delay_ms": None,
    "unique_key": None,
    "unique_scope": None,
    "unique_for_ms": None,
    "offer": False,
}


def entry(**fields: Any) -> str:
    """An entry for ``errors``."""
    return json.dumps({"kind": "failed", "message": "boom", **fields})


@pytest.fixture(scope="module")
def module_database(postgres_url: str, database_owner: tuple[str, str], template_database: str) -> Iterator[str]:
    """URL of this module's own migrated database."""
    with new_database(postgres_url, database_owner, template_database) as url:
        yield url


@pytest.fixture
def database_url(module_database: str) -> str:
    """The module's database without a row."""
    with psycopg.connect(module_database, autocommit=True) as connection:
        for table in ("jobs", "workers", "leases"):
            connection.execute(f"DELETE FROM callboard.{table}")
        connection.execute("DELETE FROM callboard.tenants WHERE id <> 'default'")
    return module_database


class Book:
    """The ledger of one test: every method is one statement, on a connection of its own unless one is given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.on: Connection | None = None

    def execute(self, statement: Any, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a statement, in the transaction that :attr:`on` names if there is one."""
        if self.on is not None:
            return all_rows(self.on.execute(statement, dict(values or {})))
        with self.engine.connect() as connection:
            return all_rows(connection.execute(statement, dict(values or {})))

    def transaction(self) -> Any:
        """A context manager: a connection in a real transaction."""
        return transaction(self.engine).begin()

    # -- verbs

    def enqueue(self, **changes: Any) -> list[Row]:
        """Insert one job, or as many as the longest list among the changes."""
        number = max((len(v) for v in changes.values() if isinstance(v, list)), default=1)
        given = {"id": [new_id() for _ in range(number)], **NEW, **changes}
        columns = {name: value if isinstance(value, list) else [value] * number for name, value in given.items()}
        return self.execute(ledger.enqueue(), parameters("new", **columns))

    def job(self, **changes: Any) -> UUID:
        """A new PENDING job."""
        (row,) = self.enqueue(**changes)
        job: UUID = row["id"]
        return job

    def claim(
        self,
        job: UUID | Sequence[UUID],
        worker: UUID,
        token: UUID | None = None,
        *,
        quarantine: bool = False,
        limit_ms: float | None = None,
    ) -> list[Row]:
        """Claim one or several jobs; several get a token each."""
        ids = [job] if isinstance(job, UUID) else list(job)
        tokens = [token or uuid4()] if len(ids) == 1 else [uuid4() for _ in ids]
        values = parameters("want", id=ids, token=tokens, limit_ms=[limit_ms] * len(ids))
        return self.execute(ledger.claim(), {**values, "worker": worker, "quarantine": quarantine})

    def complete(self, job: UUID, token: UUID, *, result: str | None = "null", **extra: Any) -> list[Row]:
        """Finish an attempt."""
        columns = {"id": job, "token": token, "result": result, "result_error": None, "progress": None, **extra}
        return self.execute(ledger.complete(), parameters("done", **{k: [v] for k, v in columns.items()}))

    def fail(self, job: UUID, token: UUID, outcome: str = "retry", delay_ms: float = 0, **extra: Any) -> list[Row]:
        """End an attempt with an error."""
        columns = {"id": job, "token": token, "outcome": outcome, "delay_ms": delay_ms, "error": "boom",
                   "entry": entry(), "progress": None, **extra}  # fmt: skip
        return self.execute(ledger.fail_attempt(), parameters("end", **{k: [v] for k, v in columns.items()}))

    def give_back(self, job: UUID, token: UUID, delay_ms: float = 0, note: str | None = None) -> list[Row]:
        """Return an attempt."""
        columns = {"id": [job], "token": [token], "delay_ms": [delay_ms], "entry": [note]}
        return self.execute(ledger.give_back(), parameters("back", **columns))

    def rescue(
        self, *, crashed: Sequence[UUID] = (), unstarted: Sequence[UUID] = (), overdue: bool = False
    ) -> list[Row]:
        """Take back what the dead left."""
        values = {"crashed": [str(t) for t in crashed], "unstarted": [str(t) for t in unstarted]}
        return self.execute(ledger.rescue(overdue=overdue), values)

    def cancel(self, job: UUID, tenant: str = "default") -> list[Row]:
        """Cancel, or ask for it."""
        return self.execute(ledger.cancel(), {"job_id": job, "tenant": tenant})

    def replay(self, job: UUID, tenant: str = "default") -> list[Row]:
        """Retry by hand."""
        return self.execute(ledger.replay(), {"job_id": job, "tenant": tenant})

    def report(self, job: UUID, token: UUID, progress: str | None = None, lines: str | None = None) -> list[Row]:
        """Note progress and log lines."""
        values = {"job_id": job, "token": token, "new_progress": progress, "new_lines": lines}
        return self.execute(ledger.report_progress(), values)

    # -- states to start from

    def worker(self, *, dead: bool = False) -> UUID:
        """A worker's row."""
        worker = uuid4()
        columns = {"id": worker, "host_id": "h", "hostname": "h", "pid": 1, "threads": 1, "queues": ["default"]}
        self.execute(insert(workers), {**columns, "version": "0", "lock_key": secrets.randbelow(2**31)})
        if dead:
            self.kill(worker)
        return worker

    def kill(self, worker: UUID) -> None:
        """Declare a worker dead, without taking its jobs back."""
        self.execute(update(workers).values(dead_at=text("now()"), death="crashed").where(workers.c.id == worker))

    def running(self, worker: UUID | None = None, *, quarantine: bool = False, **changes: Any) -> tuple[UUID, UUID]:
        """A RUNNING job; its id and token."""
        job, token = self.job(**changes), uuid4()
        assert len(self.claim(job, worker or self.worker(), token, quarantine=quarantine)) == 1
        return job, token

    def tenant(self, name: str) -> str:
        """Another tenant."""
        self.execute(insert(tenants), {"id": name})
        return name

    def change(self, job: UUID, **columns: Any) -> None:
        """Put a row into a state that no verb leads to quickly."""
        self.execute(update(jobs).where(jobs.c.id == job).values(**columns))

    # -- what the tables say

    def row(self, job: UUID) -> Row:
        """The whole row of a job."""
        (row,) = self.execute(select(jobs).where(jobs.c.id == job))
        return row

    def rows(self) -> list[Row]:
        """Every row, in the order of their ids."""
        return self.execute(select(jobs).order_by(jobs.c.id))
