"""Moves jobs through the ledger as workers would, with or without telling the feed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import redis as redis_py
import uuid_utils
from sqlalchemy import Connection, Engine, insert, select

from actors.runtime.feed import entries, stream_key
from models import ledger, tenancy
from models.arrays import parameters
from models.settings import Settings
from models.tables import jobs, workers


class Driver:
    """Ledger verbs on one database, announced on one Redis."""

    def __init__(self, engine: Engine, redis: redis_py.Redis, settings: Settings) -> None:
        self.engine = engine
        self.redis = redis
        self.settings = settings
        self.worker = uuid4()
        self.tokens: dict[str, UUID] = {}
        with engine.connect() as connection:
            values = {"id": self.worker, "host_id": "h", "hostname": "h", "pid": 1, "threads": 1, "queues": []}
            connection.execute(insert(workers).values(**values, version="test"))

    def tenant(self) -> tuple[str, str]:
        """A new tenant and its key."""
        name = f"t-{secrets.token_hex(4)}"
        with self.engine.connect() as connection:
            tenancy.ensure_tenant(connection, name)
            return name, tenancy.create_key(connection, name)

    def enqueue(
        self,
        tenant: str,
        number: int = 1,
        *,
        actor: str = "sleep",
        announce: bool = True,
        **columns: Any,
    ) -> list[str]:
        """New PENDING jobs; returns their ids."""
        ids, values = self._new(tenant, number, {"actor": actor, **columns})
        self._run(ledger.enqueue(), values, announce)
        return ids

    def enqueue_on(self, connection: Connection, tenant: str, **columns: Any) -> str:
        """A new PENDING job in somebody's open transaction; returns its id."""
        [job_id], values = self._new(tenant, 1, columns)
        connection.execute(ledger.enqueue(), values)
        return job_id

    def _new(self, tenant: str, number: int, columns: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        ids = [str(uuid_utils.uuid7()) for _ in range(number)]
        row: dict[str, Any] = {
            "tenant_id": tenant,
            "actor": "sleep",
            "queue": "default",
            "priority": 0,
            "args": "[]",
            "kwargs": '{"delay_ms": 5}',
            "options": "{}",
            "message_timestamp": 1,
            "max_attempts": 3,
            "run_at": None,
            "delay_ms": None,
            "unique_key": None,
            "unique_scope": None,
            "unique_for_ms": None,
            "offer": False,
            **columns,
        }
        return ids, parameters("new", id=ids, **{name: [value] * number for name, value in row.items()})

    def claim(self, *ids: str, announce: bool = True) -> None:
        """PENDING → RUNNING."""
        for job_id in ids:
            self.tokens[job_id] = uuid4()
        want = parameters("want", id=list(ids), token=[self.tokens[i] for i in ids], limit_ms=[None] * len(ids))
        self._run(ledger.claim(), {**want, "worker": self.worker, "quarantine": False}, announce)

    def complete(self, *ids: str, result: Any = None, announce: bool = True) -> None:
        """RUNNING → COMPLETED."""
        nothing = [None] * len(ids)
        done = parameters(
            "done",
            id=list(ids),
            token=[self.tokens[i] for i in ids],
            result=[json.dumps(result)] * len(ids),
            result_error=nothing,
            progress=nothing,
        )
        self._run(ledger.complete(), done, announce)

    def fail(self, job_id: str, error: str = "broken", *, announce: bool = True) -> None:
        """RUNNING → FAILED."""
        self._end(job_id, "fail", 0, error, announce)

    def retry(self, job_id: str, error: str = "broken", *, delay_ms: int = 0, announce: bool = True) -> None:
        """RUNNING → PENDING until the next attempt."""
        self._end(job_id, "retry", delay_ms, error, announce)

    def _end(self, job_id: str, outcome: str, delay_ms: int, error: str, announce: bool) -> None:
        entry = json.dumps({"attempt": 1, "kind": "failed", "message": error})
        end = parameters(
            "end",
            id=[job_id],
            token=[self.tokens[job_id]],
            outcome=[outcome],
            delay_ms=[delay_ms],
            error=[error],
            entry=[entry],
            progress=[None],
        )
        self._run(ledger.fail_attempt(), end, announce)

    def progress(self, job_id: str, current: int, *, announce: bool = True) -> None:
        """A running job is further."""
        values = {
            "job_id": UUID(job_id),
            "token": self.tokens[job_id],
            "new_progress": json.dumps({"current": current, "total": 100, "message": None}),
            "new_lines": None,
        }
        self._run(ledger.report_progress(), values, announce)

    def announce(self, rows: Iterable[Any]) -> None:
        """Append these rows to the stream."""
        for entry in entries([row._mapping for row in rows]):
            self.redis.xadd(stream_key(self.settings), entry)  # type: ignore[arg-type]

    def versions(self, tenant: str) -> dict[str, tuple[str, int]]:
        """What the ledger says of a tenant's jobs: status and version by id."""
        statement = select(jobs.c.id, jobs.c.status, jobs.c.version).where(jobs.c.tenant_id == tenant)
        with self.engine.connect() as connection:
            return {str(row.id): (row.status, row.version) for row in connection.execute(statement)}

    def _run(self, statement: Any, values: dict[str, Any], announce: bool) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(statement, values).all()
        assert rows, "no job was in the state for this"
        if announce:
            self.announce(rows)
