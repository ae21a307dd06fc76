"""The Bun worker's table, as its Prisma schema makes it, brought in and run."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine

import actors  # noqa: F401 - the job types
from actors.runtime.broker import make_broker
from actors.runtime.keys import messages_key
from actors.runtime.relay import Relay
from dev.console import Fault
from dev.import_bun import Report, bring_all
from models.settings import Settings
from tests.integration.worker_support import Ledger

pytestmark = pytest.mark.once

#: What `prisma migrate` makes of the old schema.
OLD = """
CREATE SCHEMA old;
CREATE TYPE old."JobStatus" AS ENUM ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED');
CREATE TABLE old."Job" (
  "id" TEXT NOT NULL, "tenantId" TEXT NOT NULL, "type" TEXT NOT NULL, "payload" JSONB NOT NULL,
  "status" old."JobStatus" NOT NULL DEFAULT 'PENDING', "attempts" INTEGER NOT NULL DEFAULT 0, "error" TEXT,
  "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" TIMESTAMP(3) NOT NULL,
  CONSTRAINT "Job_pkey" PRIMARY KEY ("id")
);
CREATE INDEX "Job_tenantId_idx" ON old."Job"("tenantId");
CREATE INDEX "Job_status_idx" ON old."Job"("status");
"""
#: A whole second: TIMESTAMP(3) rounds.
NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)


class Old:
    """The old system's table."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._run(OLD)

    def _run(self, statement: str, values: tuple[Any, ...] | None = None) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement, values)

    def add(self, status: str, payload: str = '{"delayMs": 1}', **columns: Any) -> UUID:
        job_id = uuid4()
        values = {"tenantId": "acme", "type": "sleep", "attempts": 0, "error": None, "ended": NOW, **columns}
        self._run(
            'INSERT INTO old."Job" VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)',
            (
                *(str(job_id), values["tenantId"], values["type"], payload, status, values["attempts"]),
                *(values["error"], values["ended"] - timedelta(minutes=1), values["ended"]),
            ),
        )
        return job_id


@pytest.fixture
def old(database_url: str) -> Old:
    return Old(database_url)


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


def bring(old: Old, engine: Engine, settings: Settings, **options: Any) -> Report:
    return bring_all(old.url, "old.Job", engine, settings, **options)


def test_every_status_arrives_and_a_second_run_changes_nothing(
    old: Old, engine: Engine, settings: Settings, ledger: Ledger
) -> None:
    waiting, stuck = old.add("PENDING"), old.add("RUNNING", attempts=1)
    done, failed = old.add("COMPLETED", attempts=1), old.add("FAILED", attempts=3, error="HTTP 500")
    ancient = old.add("COMPLETED", ended=NOW - timedelta(days=400))
    odd = old.add("PENDING", '{"delayMs": "soon"}', tenantId="other")
    left = old.add("PENDING", '{"delayMs": %s}' % ("9" * 5000))

    planned = bring(old, engine, settings, dry_run=True)
    assert ledger.jobs() == []
    report = bring(old, engine, settings)
    assert report == planned
    assert report.brought == {"PENDING": 2, "COMPLETED": 2, "FAILED": 2}
    assert (report.tenants, report.past_retention) == ({"acme", "other"}, 1)
    assert [line.split(":")[0] for line in report.refused] == [str(left)]
    assert str(odd) in report.ended[0]
    rows = {row["id"]: row for row in ledger.jobs()}
    assert {i: rows[i]["status"] for i in (waiting, stuck, done, failed, odd)} == {
        waiting: "PENDING", stuck: "PENDING", done: "COMPLETED", failed: "FAILED", odd: "FAILED"
    }  # fmt: skip
    assert rows[ancient]["finished_at"] == (NOW - timedelta(days=400)).replace(tzinfo=UTC)
    assert (rows[failed]["error"], rows[failed]["attempts"], rows[stuck]["attempts"]) == ("HTTP 500", 3, 1)

    again = bring(old, engine, settings)
    assert (again.brought, again.here_already) == ({}, 6)
    assert {row["id"]: row for row in ledger.jobs()} == rows


def test_what_waited_there_is_offered_here(old: Old, engine: Engine, settings: Settings, redis: Any) -> None:
    job = old.add("PENDING")
    old.add("COMPLETED")
    bring(old, engine, settings)

    with closing(make_broker()) as broker:
        Relay(broker).run_once()
    assert [json.loads(data)["message_id"] for data in redis.hvals(messages_key("default"))] == [str(job)]


def test_many_rows_go_in_batches(
    old: Old, engine: Engine, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.import_bun.BATCH", 3)
    ids = {old.add("COMPLETED") for _ in range(8)}
    assert bring(old, engine, settings).brought == {"COMPLETED": 8}
    assert {row["id"] for row in ledger.jobs()} == ids


def test_a_table_that_is_not_there_is_named(old: Old, engine: Engine, settings: Settings) -> None:
    with pytest.raises(Fault, match="Jobs"):
        bring_all(old.url, "old.Jobs", engine, settings)
    with pytest.raises(Fault, match="tenantId"):
        bring_all(old.url, "callboard.jobs", engine, settings)
