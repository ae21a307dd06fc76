"""Lists, whatever happens between two pages: each job that was there throughout is on exactly one page."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
import uuid_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy import Engine

from models.board import board_page
from models.newest import Place, Wanted
from models.queries import counts, finished_lately, page_of_jobs
from models.state import TERMINAL, Status
from tests.integration.ledger_support import database_url, module_database
from web.job_list import cursor_of, place_of

assert database_url is not None
assert module_database is not None

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
Row = dict[str, Any]

#: A job: age in the few steps that make equals likely, how its id was made, and its group.
JOBS = st.tuples(
    st.integers(0, 3), st.sampled_from([4, 5, 7]), st.sampled_from(Status), st.sampled_from("ab"), st.sampled_from("xy")
)
#: What happens before the next page: jobs are born, or some change their status.
BETWEEN = st.lists(st.tuples(st.lists(JOBS, max_size=3), st.lists(st.integers(0, 30), max_size=3)), max_size=12)


def an_id(version: int) -> UUID:
    """An id as a stock producer, a schedule or we make it."""
    if version == 7:
        return UUID(str(uuid_utils.uuid7()))
    return uuid4() if version == 4 else uuid5(UUID(int=0), secrets.token_hex(8))


class Table:
    """The jobs of one tenant, put into the table as they are wanted."""

    def __init__(self, connection: psycopg.Connection[Any], tenant: str) -> None:
        self.connection = connection
        self.tenant = tenant
        self.rows: dict[UUID, Row] = {}

    def add(self, made: list[tuple[int, int, Status, str, str]]) -> None:
        for age, version, status, actor, queue in made:
            row = {
                "id": an_id(version),
                "created_at": EPOCH + timedelta(microseconds=age),
                "status": status.value,
                "actor": actor,
                "queue": queue,
            }
            running = status is Status.RUNNING
            columns = {
                **row,
                "tenant_id": self.tenant,
                "args": "[]",
                "kwargs": "{}",
                "options": "{}",
                "message_timestamp": 0,
                "worker_id": uuid4() if running else None,
                "attempt_token": uuid4() if running else None,
            }
            insert = sql.SQL("INSERT INTO callboard.jobs ({}) VALUES ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(sql.Placeholder, columns))
            )
            self.connection.execute(insert, columns)
            self.rows[row["id"]] = row

    def change(self, numbers: list[int]) -> None:
        """Some live jobs are cancelled."""
        for number in numbers:
            row = list(self.rows.values())[number % len(self.rows)] if self.rows else {"status": "FAILED"}
            if row["status"] in ("PENDING", "RUNNING"):
                row["status"] = "CANCELLED"
                self.connection.execute("UPDATE callboard.jobs SET status = 'CANCELLED' WHERE id = %s", [row["id"]])

    def ids(self, **wanted: Any) -> list[UUID]:
        """What a list with this filter should hold, newest first."""
        fitting = [r for r in self.rows.values() if all(r[name] == value for name, value in wanted.items() if value)]
        return [r["id"] for r in sorted(fitting, key=lambda r: (r["created_at"], r["id"]), reverse=True)]


@pytest.fixture
def table(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield lambda: Table(connection, f"t-{secrets.token_hex(6)}")


def read(engine: Engine, statement: Any, values: dict[str, Any]) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(statement, values))


def page(engine: Engine, table: Table, statement: Any, **filters: Any) -> list[Any]:
    wanted = Wanted(**filters)
    return read(engine, statement(wanted.shape), wanted.values(table.tenant))


def walk(engine: Engine, table: Table, limit: int, events: list[Any], **filters: Any) -> list[UUID]:
    """Every page to the end, something happening before each next one."""
    seen: list[UUID] = []
    before: Place | None = None
    while True:
        rows = page(engine, table, page_of_jobs, **filters, before=before, limit=limit)
        if not rows:
            return seen
        assert len(rows) <= limit
        seen += [row.id for row in rows]
        before = place_of(cursor_of(rows[-1]._mapping))
        if events:
            born, changed = events.pop()
            table.add(born)
            table.change(changed)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(JOBS, max_size=20),
    events=BETWEEN,
    limit=st.integers(1, 7),
    job_type=st.sampled_from([None, "a"]),
    queue=st.sampled_from([None, "x"]),
)
def test_who_walks_all_pages_meets_each_job_once(
    engine: Engine, table: Any, made: Any, events: Any, limit: int, job_type: str | None, queue: str | None
) -> None:
    jobs = table()
    jobs.add(made)
    throughout = jobs.ids(actor=job_type, queue=queue)
    seen = walk(engine, jobs, limit, list(events), job_type=job_type, queue=queue)
    assert len(seen) == len(set(seen))
    assert [job_id for job_id in seen if job_id in set(throughout)] == throughout
    assert set(seen) <= set(jobs.ids(actor=job_type, queue=queue))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(JOBS, max_size=25),
    limit=st.integers(1, 7),
    status=st.sampled_from([None, *Status]),
    job_type=st.sampled_from([None, "a", "none"]),
    queue=st.sampled_from([None, "y"]),
)
def test_every_filter_gives_what_it_names(
    engine: Engine, table: Any, made: Any, limit: int, status: Status | None, job_type: str | None, queue: str | None
) -> None:
    jobs, others = table(), table()
    jobs.add(made)
    others.add(made)
    expected = jobs.ids(status=status, actor=job_type, queue=queue)
    statuses = (status,) if status else ()
    assert walk(engine, jobs, limit, [], statuses=statuses, job_type=job_type, queue=queue) == expected
    shown = page(engine, jobs, board_page, statuses=statuses, job_type=job_type, limit=limit)
    assert [row.id for row in shown] == jobs.ids(status=status, actor=job_type)[:limit]
    ended = [i for i in jobs.ids() if jobs.rows[i]["status"] in TERMINAL]
    lately = read(engine, finished_lately(), {"tenant": jobs.tenant, "room": limit})
    assert [row.id for row in lately] == ended[:limit]
    numbers = {row.status: row.number for row in read(engine, counts(), {"tenant": jobs.tenant})}
    assert numbers == {s: len(jobs.ids(status=s.value)) for s in Status}


def test_the_newest_is_the_one_that_was_made_last_whoever_made_its_id(engine: Engine, table: Any) -> None:
    """As a number, nearly every UUIDv4 is above every UUIDv7 of this century."""
    jobs = table()
    for age, version in enumerate((4, 7, 5, 7, 4, 7)):
        jobs.add([(age, version, Status.PENDING, "a", "x")])
    assert [row.id for row in page(engine, jobs, page_of_jobs, limit=10)] == list(jobs.rows)[::-1]
