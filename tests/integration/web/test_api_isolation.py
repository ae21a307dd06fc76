"""Nothing crosses a tenant: another tenant's id is 404 on every route, and feeds show one tenant's jobs."""

from __future__ import annotations

import httpx
import pytest

from models import tenancy
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import Listener, WebServer


@pytest.fixture
def strangers_job(driver: Driver) -> str:
    """A failed job of somebody else."""
    name, _ = driver.tenant()
    [job_id] = driver.enqueue(name)
    driver.claim(job_id)
    driver.fail(job_id)
    return job_id


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/{}"),
        ("GET", "/jobs/{}/result"),
        ("GET", "/jobs/{}/events"),
        ("POST", "/jobs/{}/cancel"),
        ("POST", "/jobs/{}/retry"),
    ],
)
def test_a_strangers_job_is_404_and_looks_like_an_unknown_one(
    api: httpx.Client, strangers_job: str, method: str, path: str
) -> None:
    unknown = "01a205fc-e74c-70c1-981f-000000000000"
    theirs = api.request(method, path.format(strangers_job))
    assert theirs.status_code == 404
    assert theirs.text.replace(strangers_job, unknown) == api.request(method, path.format(unknown)).text


def test_a_ticket_for_a_strangers_job_is_404(api: httpx.Client, strangers_job: str) -> None:
    assert api.post("/events/tickets", json={"job": strangers_job}).status_code == 404


def test_lists_show_ones_own_only(
    api: httpx.Client, driver: Driver, strangers_job: str, tenant: tuple[str, str]
) -> None:
    ids = driver.enqueue(tenant[0], 2)
    shown = {job["id"] for job in api.get("/jobs?limit=100").json()["jobs"]}
    assert shown == set(ids)
    assert strangers_job not in shown


def test_feeds_show_ones_own_only(web: WebServer, driver: Driver) -> None:
    (mine, my_key), (theirs, their_key) = driver.tenant(), driver.tenant()
    listeners = [Listener(f"{web.url}/events", key=key) for key in (my_key, their_key)]
    [my_job], [their_job] = driver.enqueue(mine), driver.enqueue(theirs)
    wait_for(lambda: listeners[0].statuses(my_job) and listeners[1].statuses(their_job))
    driver.claim(my_job, their_job)
    wait_for(lambda: "RUNNING" in listeners[0].statuses(my_job) and "RUNNING" in listeners[1].statuses(their_job))
    assert set(listeners[0].states()) == {my_job}
    assert set(listeners[1].states()) == {their_job}
    for listener in listeners:
        listener.close()


def test_unique_keys_of_two_tenants_do_not_meet(web: WebServer, driver: Driver) -> None:
    ids = set()
    for _ in range(2):
        _, key = driver.tenant()
        body = {"type": "sleep", "payload": {"delayMs": 1}, "options": {"unique_key": "same", "delay": 60_000}}
        response = httpx.post(f"{web.url}/jobs", json=body, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 202
        assert "duplicate" not in response.json()
        ids.add(response.json()["id"])
    assert len(ids) == 2


def test_a_revoked_key_stops_working_and_its_streams_end(web: WebServer, driver: Driver) -> None:
    _, key = driver.tenant()
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{web.url}/jobs", headers=headers).status_code == 200
    listener = Listener(f"{web.url}/events", key=key)
    with driver.engine.connect() as connection:
        assert tenancy.revoke_key(connection, key)
    wait_for(lambda: httpx.get(f"{web.url}/jobs", headers=headers).status_code == 401, 8)
    assert listener.ended.wait(10)
