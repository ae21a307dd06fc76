"""How long lists and queue counts take at a million jobs: ``python -m benchmarks.lists [number of jobs]``.

Boots a Postgres and a Valkey of its own, fills the table, starts one web process, and asks ``GET /jobs`` under every
combination of filters, one request after the other. Prints percentiles in milliseconds: what Postgres says of its own
part, and what a client on the same machine sees (on a busy machine that is mostly the others' work); then the bytes of
WAL that the ledger writes per job beside that many others.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import psycopg
import redis

from dev.accounts import postgres_account
from dev.migrations import upgrade
from dev.postgres import Installation, Postgres, reachable_binaries
from dev.valkey import Valkey
from models import tenancy
from models.engine import make_engine, psycopg_dialect
from models.newest import Wanted
from models.queries import page_of_jobs
from models.settings import get_settings
from models.state import Status
from tests.conftest import SECRET_KEY, clean_environment, with_database
from tests.ledger_driver import Driver
from tests.support import scratch_folder
from tests.web_server import WebServer, web_server

#: 97 % COMPLETED, 1.5 % FAILED, 0.1 % CANCELLED; of the newest 1 % the rest is PENDING, and 100 are RUNNING. Types,
#: queues and tenants are spread evenly, but for five jobs of a rare type and five in a rare queue.
FILL = """
INSERT INTO callboard.jobs (id, tenant_id, actor, queue, args, kwargs, options, message_timestamp, status, attempts,
                            max_attempts, run_at, dispatch, offered_at, worker_id, attempt_token, created_at,
                            finished_at, result)
SELECT ('0190' || lpad(to_hex(n), 8, '0') || '7' || substr(md5(n::text), 1, 3)
        || '8' || substr(md5(n::text), 4, 15))::uuid,
       CASE WHEN n %% 50 = 7 THEN 'small' ELSE 'large' END,
       CASE WHEN n %% (%(number)s / 5) = 11 THEN 'rare' ELSE 'type-' || n %% 8 END,
       CASE WHEN n %% (%(number)s / 5) = 13 THEN 'rarely' ELSE 'queue-' || n %% 4 END,
       '[]', '{"delay_ms": 5}', '{}', 0, status, 1, 3, at, 1, at,
       CASE WHEN status = 'RUNNING' THEN gen_random_uuid() END, gen_random_uuid(), at,
       CASE WHEN status NOT IN ('PENDING', 'RUNNING') THEN at END, '{"slept_ms": 5}'
FROM (SELECT n, now() - (%(number)s - n) * interval '1 s' AS at,
             CASE WHEN n %% 1000 < 15 THEN 'FAILED' WHEN n %% 1000 = 15 THEN 'CANCELLED'
                  WHEN n <= %(number)s * 0.99 THEN 'COMPLETED'
                  WHEN n %% 100 = 17 THEN 'RUNNING' ELSE 'PENDING' END AS status
      FROM generate_series(1, %(number)s) AS n) AS made
"""
TYPES = (None, "type-1", "rare", "nobody")
QUEUES = (None, "queue-1", "rarely", "nothing")
STATUSES = ((), *((status,) for status in Status), (Status.PENDING, Status.RUNNING), (Status.FAILED, Status.CANCELLED))
#: No answer but a good one is measured.
STRICT = {"response": [httpx.Response.raise_for_status]}
#: Jobs per batch and in all when WAL is measured.
BATCH, MEASURED = 64, 6_400


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """A durable Postgres and a Valkey; gives the variables that name them."""
    with scratch_folder() as folder:
        account = postgres_account()
        place = Installation(reachable_binaries(account), folder / "postgres", account)
        postgres = Postgres(place, log=folder / "postgres.log", port=None, password="benchmark", durable=True)
        valkey = Valkey(folder / "redis", log=folder / "redis.log", port=None, password="benchmark", durable=False)
        postgres.boot()
        valkey.boot()
        try:
            yield {
                "CALLBOARD_ENV": "development",
                "DATABASE_URL": postgres.url(),
                "REDIS_URL": with_database(valkey.url, "1"),
                "CALLBOARD_SECRET_KEY": SECRET_KEY,
            }
        finally:
            valkey.stop()
            postgres.stop()


def requests(tenant_middle: str) -> Iterator[str]:
    """Every combination of filters, from the newest job and from the middle."""
    for statuses, job_type, queue, after in itertools.product(STATUSES, TYPES, QUEUES, (None, tenant_middle)):
        asked = [("status", str(status)) for status in statuses]
        asked += [(k, v) for k, v in (("type", job_type), ("queue", queue), ("after", after)) if v is not None]
        yield f"/jobs?{urlencode([*asked, ('limit', '20')])}"


def middle(client: httpx.Client, hops: int = 30) -> str:
    """A cursor well behind the newest jobs."""
    cursor = ""
    for _ in range(hops):
        cursor = client.get(f"/jobs?limit=100{f'&after={cursor}' if cursor else ''}").json()["next"] or cursor
    return cursor


def explained(connection: psycopg.Connection[Any]) -> list[float]:
    """Seconds of planning and execution, by Postgres's own clock, of the large tenant's list under each filter."""
    taken = []
    for statuses, job_type, queue in itertools.product(STATUSES, TYPES, QUEUES):
        wanted = Wanted(statuses, job_type, queue, limit=21)
        compiled = page_of_jobs(wanted.shape).compile(dialect=psycopg_dialect())
        values = {**compiled.params, **wanted.values("large")}
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}", values).fetchone()
        assert row is not None
        taken.append((row[0][0]["Planning Time"] + row[0][0]["Execution Time"]) / 1000)
    return taken


def measure(name: str, ask: Callable[[], object], times: int) -> None:
    """Print the percentiles of one request."""
    print(name, percentiles([_timed(ask) for _ in range(times)]))


def percentiles(taken: list[float]) -> str:
    """Percentiles of seconds, in milliseconds."""
    taken = sorted(taken)
    p50, p95 = (taken[int(len(taken) * part)] * 1000 for part in (0.5, 0.95))
    return f"p50 {p50:.1f} p95 {p95:.1f} max {taken[-1] * 1000:.1f} ms of {len(taken)}"


def _timed(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return time.perf_counter() - begun


def _cpu_s(web: WebServer) -> float:
    assert web.process is not None
    times = psutil.Process(web.process.pid).cpu_times()
    return times.user + times.system


def wal(driver: Driver) -> tuple[float, float]:
    """Bytes of WAL per job: of the insert, and of claim and completion; each after a checkpoint."""
    with driver.engine.connect() as connection:

        def position() -> int:
            row = connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").scalar_one()
            return int(row)

        connection.exec_driver_sql("CHECKPOINT")
        begun = position()
        batches = [
            driver.enqueue("large", BATCH, actor="type-1", queue="queue-1", offer=True, announce=False)
            for _ in range(MEASURED // BATCH)
        ]
        inserted = position()
        connection.exec_driver_sql("CHECKPOINT")
        before = position()
        for ids in batches:
            driver.claim(*ids, announce=False)
            driver.complete(*ids, result={"slept_ms": 5}, announce=False)
        return (inserted - begun) / MEASURED, (position() - before) / MEASURED


def main(number: int) -> None:
    """Measure and print."""
    with servers() as environment, clean_environment(**environment):
        upgrade()
        engine = make_engine(get_settings())
        with engine.connect() as connection:
            for name in ("large", "small"):
                tenancy.ensure_tenant(connection, name)
            keys = {name: tenancy.create_key(connection, name) for name in ("large", "small")}
        with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(FILL, {"number": number})
            connection.execute("VACUUM ANALYZE callboard.jobs")
            print(f"{number:,} jobs: Postgres's part of a list", percentiles(explained(connection)), flush=True)
        with scratch_folder() as folder, web_server(environment, folder / "web.log") as web:
            for name, key in keys.items():
                headers = {"Authorization": f"Bearer {key}"}
                with httpx.Client(base_url=web.url, headers=headers, timeout=60, event_hooks=STRICT) as client:
                    asked = list(requests(middle(client)))
                    used = _cpu_s(web)
                    taken = [(_timed(partial(client.get, path)), path) for path in asked * 2]
                    print(f"{number:,} jobs, tenant {name}: GET /jobs", percentiles([t for t, _ in taken]))
                    print(f"  CPU of the web process per request: {(_cpu_s(web) - used) / len(taken) * 1000:.1f} ms")
                    print("  slowest:", *(f"{t * 1000:.0f} ms {path}" for t, path in sorted(taken)[-3:]))
                    measure("  GET /queues", partial(client.get, "/queues"), 20)
        with redis.Redis.from_url(get_settings().redis_url_with_db) as client:
            inserted, drained = wal(Driver(engine, client, get_settings()))
        print(f"WAL per job: {inserted:.0f} bytes for the insert, {drained:.0f} for claim and completion")
        engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
