"""GET /queues: exactly what SQL counts, whatever Redis has."""

from __future__ import annotations

from typing import Any

import httpx
from sqlalchemy import text

from models import queue_counts
from tests.ledger_driver import Driver

#: Written without a look at how the product counts.
BY_SQL = """
SELECT queue,
       sum(CASE WHEN status = 'PENDING' AND run_at <= now() THEN 1 ELSE 0 END) AS waiting,
       sum(CASE WHEN status = 'RUNNING' THEN 1 ELSE 0 END) AS active,
       sum(CASE WHEN status = 'PENDING' AND run_at > now() THEN 1 ELSE 0 END) AS delayed,
       sum(CASE WHEN status = 'COMPLETED' THEN 1 ELSE 0 END) AS completed,
       sum(CASE WHEN status = 'FAILED' THEN 1 ELSE 0 END) AS failed
FROM callboard.jobs WHERE tenant_id = :tenant OR :tenant = '*' GROUP BY queue
"""


def by_sql(driver: Driver, tenant: str) -> dict[str, dict[str, int]]:
    with driver.engine.connect() as connection:
        rows = connection.execute(text(BY_SQL), {"tenant": tenant}).mappings().all()
    return {row["queue"]: {name: int(row[name]) for name in queue_counts.COUNTS} for row in rows}


def by_api(api: httpx.Client) -> dict[str, dict[str, int]]:
    response = api.get("/queues")
    assert response.status_code == 200, response.text
    queues: list[dict[str, Any]] = response.json()["queues"]
    assert [queue["name"] for queue in queues] == sorted(queue["name"] for queue in queues)
    return {queue.pop("name"): queue for queue in queues}


def fill(driver: Driver, tenant: str) -> None:
    """3 delayed (one of them until its next attempt), 2 failed, 5 completed, 2 waiting, 1 active; some elsewhere."""
    driver.enqueue(tenant, 2, delay_ms=3_600_000)
    again, *failed = driver.enqueue(tenant, 3)
    done = driver.enqueue(tenant, 5)
    elsewhere, active = driver.enqueue(tenant, 1, queue="slow", actor="other")[0], driver.enqueue(tenant)[0]
    driver.enqueue(tenant, 2)
    driver.claim(again, *failed, *done, elsewhere, active)
    driver.complete(*done, elsewhere)
    for job_id in failed:
        driver.fail(job_id)
    driver.retry(again, delay_ms=3_600_000)


def test_queues_equal_sql_before_and_after_redis_is_emptied(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str]
) -> None:
    fill(driver, tenant[0])
    other, _ = driver.tenant()
    driver.enqueue(other, 4)
    expected = {"waiting": 2, "active": 1, "delayed": 3, "completed": 5, "failed": 2}
    for _ in range(2):
        found = by_api(api)
        assert found["default"] == expected
        assert found["slow"] == {**dict.fromkeys(queue_counts.COUNTS, 0), "completed": 1}
        truth = by_sql(driver, tenant[0])
        assert {name: numbers for name, numbers in found.items() if any(numbers.values())} == truth
        driver.redis.flushall()


def test_operators_see_all_tenants(driver: Driver, tenant: tuple[str, str]) -> None:
    fill(driver, tenant[0])
    fill(driver, driver.tenant()[0])
    with driver.engine.connect() as connection:
        rows = connection.execute(queue_counts.of_all_tenants()).mappings().all()
    counted = {row["queue"]: {name: row[name] for name in queue_counts.COUNTS} for row in rows}
    assert counted == by_sql(driver, "*")


def test_a_queue_that_nobody_has_used_is_there(api: httpx.Client) -> None:
    assert by_api(api)["default"] == dict.fromkeys(queue_counts.COUNTS, 0)


def test_it_needs_a_key(nobody: httpx.Client) -> None:
    assert nobody.get("/queues").status_code == 401
