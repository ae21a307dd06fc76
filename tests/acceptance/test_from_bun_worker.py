"""docs/how-to/from-bun-worker.md, done as it says, beside a running ``up``."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import psycopg

from tests.acceptance.pages import DocumentedPage
from tests.acceptance.spine import Spine

PAGE = DocumentedPage("how-to/from-bun-worker.md")
#: What Prisma made of the old schema, as far as the import reads it.
OLD = """
CREATE SCHEMA bun;
CREATE TYPE bun."JobStatus" AS ENUM ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED');
CREATE TABLE bun."Job" (
  "id" TEXT PRIMARY KEY, "tenantId" TEXT NOT NULL, "type" TEXT NOT NULL, "payload" JSONB NOT NULL,
  "status" bun."JobStatus" NOT NULL, "attempts" INTEGER NOT NULL, "error" TEXT,
  "createdAt" TIMESTAMP(3) NOT NULL, "updatedAt" TIMESTAMP(3) NOT NULL
);
"""


def test_nothing_on_the_page_is_unexecuted() -> None:
    assert set(PAGE.runs) == {"dry-run", "import", "key", "ticket"}
    assert set(PAGE.scripts) == {"page"}
    assert PAGE.loose() == []


def test_every_address_it_names_exists(spine: Spine) -> None:
    served = httpx.get(f"{spine.url}/openapi.json").json()["paths"]
    here = [line.split("|")[2] for line in PAGE.text.splitlines() if line.startswith("|")]
    named = {match for cell in here for match in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]*)`", cell)}
    assert len(named) >= 8
    assert [f"{method} {path}" for method, path in named if method.lower() not in served.get(path, {})] == []


def test_the_table_is_brought_in_and_what_waited_there_runs_here(spine: Spine) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    waiting, stuck, done = (str(uuid4()) for _ in range(3))
    with psycopg.connect(spine.told["database_url"], autocommit=True) as connection:
        connection.execute(OLD)
        for job_id, status, attempts in ((waiting, "PENDING", 0), (stuck, "RUNNING", 1), (done, "COMPLETED", 1)):
            row = (job_id, "acme", "sleep", '{"delayMs": 5}', status, attempts, None, now, now)
            connection.execute('INSERT INTO bun."Job" VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)', row)
    old = {"OLD_DATABASE_URL": spine.told["database_url"], "OLD_TABLE": "bun.Job"}

    before = spine.count()
    assert "would bring in 3 jobs (1 COMPLETED, 2 PENDING)" in PAGE.run("dry-run", spine.clone, **old)
    assert spine.count() == before
    said = PAGE.run("import", spine.clone, **old)
    assert "brought in 3 jobs (1 COMPLETED, 2 PENDING); 0 were here already" in said
    assert spine.wait_until_ended(waiting)["status"] == "COMPLETED"
    assert [spine.wait_until_ended(stuck)[name] for name in ("status", "attempts")] == ["COMPLETED", 2]

    key = PAGE.run("key", spine.clone).split()[-1]
    with spine.client(key) as client:
        assert {job["id"] for job in client.get("/jobs").json()["jobs"]} == {waiting, stuck, done}
    ticket = json.loads(PAGE.run("ticket", spine.clone, URL=spine.url, KEY=key))
    assert ticket["url"].startswith(f"{spine.url}/events?ticket=")
