"""``/crons``: what a tenant's schedules did and will do; run, pause, resume."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, text

from models import schedules as sql
from models.arrays import parameters
from models.tables import jobs, schedules
from tests.integration.cron_support import declare
from tests.ledger_driver import Driver


@pytest.fixture
def hourly(driver: Driver, tenant: tuple[str, str]) -> str:
    """A schedule of this test's tenant."""
    declare(driver.engine, tenant[0], "hourly", tz="Europe/Vienna")
    return "hourly"


def row(driver: Driver, tenant: tuple[str, str], name: str = "hourly") -> Any:
    with driver.engine.connect() as connection:
        return connection.execute(
            select(schedules).where(schedules.c.tenant_id == tenant[0], schedules.c.name == name)
        ).one()


def change(driver: Driver, assignments: str) -> None:
    with driver.engine.connect() as connection:
        connection.execute(text(f"UPDATE callboard.schedules SET {assignments}"))


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


def test_a_schedule_in_json(api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str) -> None:
    before = datetime.now(UTC)
    (cron,) = api.get("/crons").json()["crons"]
    coming = [datetime.fromisoformat(at) for at in cron.pop("next")]
    assert len(coming) == 5
    assert coming[0] - before <= timedelta(hours=1)
    assert all(b - a == timedelta(hours=1) for a, b in pairwise(coming))
    cron.pop("last_tick_at")
    assert cron == {
        "name": hourly,
        "type": "sleep",
        "expression": "0 * * * *",
        "tz": "Europe/Vienna",
        "payload": {"delayMs": 5},
        "missed": "once",
        "overlap": "allow",
        "state": "active",
        "paused_at": None,
        "retired_at": None,
        "last": [],
        "links": {action: f"/crons/hourly/{action}" for action in ("run", "pause", "resume")},
    }


def test_run_sends_a_job_and_shows_it(api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str) -> None:
    answer = api.post(f"/crons/{hourly}/run")
    assert answer.status_code == 202
    (run,) = answer.json()["last"]
    assert (run["outcome"], run["by_hand"], run["job"]["status"]) == ("sent", True, "PENDING")
    assert answer.headers["location"] == f"/jobs/{run['job']['id']}"
    job = api.get(answer.headers["location"]).json()
    assert (job["type"], job["payload"]) == ("sleep", {"delayMs": 5})


def test_the_newest_twenty_runs_newest_first(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    number = 25
    lists = parameters(
        "new",
        tenant_id=[tenant[0]] * number,
        schedule=[hourly] * number,
        tick_at=[start + timedelta(hours=n) for n in range(number)],
        outcome=["skipped"] * number,
        reason=["because"] * number,
        job_id=[None] * number,
        by_hand=[False] * number,
    )
    with driver.engine.connect() as connection:
        connection.execute(sql.record_ticks(), lists)
    (cron,) = api.get("/crons").json()["crons"]
    shown = [datetime.fromisoformat(run["tick_at"]) for run in cron["last"]]
    assert shown == [start + timedelta(hours=24 - n) for n in range(20)]
    assert cron["last"][0]["reason"] == "because"
    assert cron["last"][0]["job"] is None


def test_pause_and_resume(api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str) -> None:
    change(driver, "next_tick_at = now() - interval '1 minute', last_tick_at = now() - interval '1 day'")
    paused = api.post(f"/crons/{hourly}/pause")
    assert paused.status_code == 200
    assert (paused.json()["state"], paused.json()["next"]) == ("paused", [])
    assert problem(api.post(f"/crons/{hourly}/pause")) == (
        409, "The schedule is paused: pause needs an active schedule; nothing was changed."
    )  # fmt: skip
    assert api.post(f"/crons/{hourly}/run").status_code == 202, "by hand it runs all the same"
    resumed = api.post(f"/crons/{hourly}/resume")
    assert (resumed.status_code, resumed.json()["state"]) == (200, "active")
    after = row(driver, tenant)
    assert after.paused_at is None
    assert datetime.now(UTC) - after.last_tick_at < timedelta(minutes=1), "the pause is not made up for"
    assert after.next_tick_at > datetime.now(UTC)
    assert problem(api.post(f"/crons/{hourly}/resume"))[0] == 409


def test_a_retired_schedule_is_shown_and_cannot_be_run(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str
) -> None:
    change(driver, "retired_at = now()")
    (cron,) = api.get("/crons").json()["crons"]
    assert (cron["state"], cron["next"]) == ("retired", [])
    for action in ("run", "pause", "resume"):
        status, detail = problem(api.post(f"/crons/{hourly}/{action}"))
        assert (status, "retired" in detail) == (409, True)


def test_a_schedule_that_nobody_ticks_is_stale(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str], hourly: str
) -> None:
    change(driver, "next_tick_at = now() - interval '5 minutes'")
    (cron,) = api.get("/crons").json()["crons"]
    assert (cron["state"], len(cron["next"])) == ("stale", 5)


def test_a_run_that_the_overlap_policy_forbids(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    declare(driver.engine, tenant[0], "alone", overlap="skip")
    assert api.post("/crons/alone/run").status_code == 202
    assert problem(api.post("/crons/alone/run"))[0] == 409
    assert len(api.get("/jobs").json()["jobs"]) == 1


def test_arguments_that_the_job_type_refuses(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    declare(driver.engine, tenant[0], "wrong", kwargs='{"delay_ms": -1}')
    status, _ = problem(api.post("/crons/wrong/run"))
    assert status == 422
    (cron,) = api.get("/crons").json()["crons"]
    assert cron["last"] == []


def test_an_actor_that_the_web_does_not_have(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    declare(driver.engine, tenant[0], "foreign", actor="elsewhere", kwargs='{"a": 1}')
    (cron,) = api.get("/crons").json()["crons"]
    assert cron["payload"] == {"args": [], "kwargs": {"a": 1}}
    assert problem(api.post("/crons/foreign/run"))[0] == 409
    assert api.post("/crons/foreign/pause").status_code == 200


@pytest.mark.parametrize("action", ["run", "pause", "resume"])
def test_a_strangers_schedule_is_404_and_looks_like_an_unknown_one(
    api: httpx.Client, driver: Driver, hourly: str, action: str
) -> None:
    other, _ = driver.tenant()
    declare(driver.engine, other, "theirs")
    theirs = api.post(f"/crons/theirs/{action}")
    assert problem(theirs)[0] == 404
    assert theirs.text.replace("theirs", "unknown") == api.post(f"/crons/unknown/{action}").text
    assert [cron["name"] for cron in api.get("/crons").json()["crons"]] == [hourly]
    with driver.engine.connect() as connection:
        assert connection.execute(select(jobs.c.id).where(jobs.c.tenant_id == other)).all() == []


@pytest.mark.parametrize("name", ["a%00b", "%F0%9F%98%80", "a%20b", "x" * 300, "%ED%A0%80"])
def test_a_name_that_no_schedule_can_have_is_404(api: httpx.Client, name: str) -> None:
    assert problem(api.post(f"/crons/{name}/pause"))[0] == 404


def test_two_tenants_may_use_one_name(driver: Driver, api: httpx.Client, tenant: tuple[str, str], hourly: str) -> None:
    other, _ = driver.tenant()
    declare(driver.engine, other, hourly)
    api.post(f"/crons/{hourly}/pause")
    assert row(driver, tenant).paused_at is not None
    assert row(driver, (other, "")).paused_at is None
    job_id = api.post(f"/crons/{hourly}/run").headers["location"].rpartition("/")[2]
    with driver.engine.connect() as connection:
        assert connection.execute(select(jobs.c.tenant_id).where(jobs.c.id == UUID(job_id))).scalar() == tenant[0]


def test_without_a_key(nobody: httpx.Client) -> None:
    assert problem(nobody.get("/crons"))[0] == 401
    assert problem(nobody.post("/crons/x/run"))[0] == 401


@pytest.mark.parametrize("path", ["/crons/%00/run", "/crons/%00/pause", "/crons/a%00b/resume"])
def test_a_name_that_cannot_be(api: httpx.Client, path: str) -> None:
    assert problem(api.post(path))[0] == 404
