"""The routes of jobs: send, look, list, cancel, retry."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from models.engine import transaction
from tests.ledger_driver import Driver

SLEEP = {"type": "sleep", "payload": {"delayMs": 5}}
#: The members of a job in DESIGN section 9.
FIELDS = """id type queue status attempts max_attempts crashes priority run_at unique_key payload progress result
error errors version created_at started_at finished_at updated_at links"""


def send(api: httpx.Client, **options: object) -> dict[str, object]:
    response = api.post("/jobs", json={**SLEEP, "options": options})
    assert response.status_code == 202, response.text
    job: dict[str, object] = response.json()
    return job


def test_a_job_is_accepted_and_found(api: httpx.Client) -> None:
    response = api.post("/jobs", json=SLEEP)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert UUID(job["id"]).version == 7
    assert job.keys() >= set(FIELDS.split())
    assert (job["type"], job["status"], job["attempts"], job["max_attempts"]) == ("sleep", "PENDING", 0, 3)
    assert job["payload"] == {"delayMs": 5}
    assert datetime.fromisoformat(job["created_at"]).utcoffset() == timedelta(0)
    assert job["created_at"].endswith("Z")
    assert api.get(job["links"]["self"]).json() == job


def test_options_reach_the_row(api: httpx.Client) -> None:
    at = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    job = send(api, run_at=at.isoformat(), priority=-3, max_attempts=7, unique_key="k", backoff=None)
    assert datetime.fromisoformat(str(job["run_at"])) == at
    assert (job["priority"], job["max_attempts"], job["unique_key"]) == (-3, 7, "k")
    delayed = send(api, delay=60_000, backoff={"type": "fixed", "delay": 100})
    wait = datetime.fromisoformat(str(delayed["run_at"])) - datetime.fromisoformat(str(delayed["created_at"]))
    assert wait == timedelta(minutes=1)


def test_the_second_sender_of_a_unique_key_gets_the_first_job(api: httpx.Client) -> None:
    first = send(api, unique_key="once", delay=60_000)
    second = send(api, unique_key="once", delay=60_000)
    assert "duplicate" not in first
    assert second.pop("duplicate") is True
    assert second == first
    assert len(api.get("/jobs").json()["jobs"]) == 1


def test_an_etag_saves_the_body(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    response = api.get(f"/jobs/{job_id}")
    tag = response.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = api.get(f"/jobs/{job_id}", headers={"If-None-Match": known})
        assert again.status_code == 304
        assert again.headers["etag"] == tag
        assert not again.content
    driver.claim(job_id)
    changed = api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_pages_are_complete_and_in_order(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    ids = driver.enqueue(tenant[0], 7)
    seen: list[str] = []
    url: str | None = "/jobs?limit=3"
    while url:
        response = api.get(url)
        body = response.json()
        seen += [job["id"] for job in body["jobs"]]
        link = response.links.get("next")
        assert (link is None) == (body["next"] is None)
        if seen and len(seen) == 3:
            driver.enqueue(tenant[0])  # newer jobs do not shift the pages after
        url = link["url"] if link else None
    assert seen == sorted(ids, reverse=True)


def test_the_last_page_names_no_next(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    driver.enqueue(tenant[0], 3)
    assert api.get("/jobs?limit=3").json()["next"] is None
    assert api.get("/jobs?limit=2").json()["next"] is not None


def test_filters(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    waiting, running, done = driver.enqueue(tenant[0], 3)
    [other] = driver.enqueue(tenant[0], actor="other", queue="slow")
    driver.claim(running, done)
    driver.complete(done)

    def ids(query: str) -> set[str]:
        return {job["id"] for job in api.get(f"/jobs?{query}").json()["jobs"]}

    assert ids("status=PENDING") == {waiting, other}
    assert ids("status=PENDING&status=RUNNING") == {waiting, other, running}
    assert ids("status=COMPLETED") == {done}
    assert ids("status=FAILED") == set()
    assert ids("type=other") == ids("queue=slow") == {other}
    assert ids("type=sleep&status=RUNNING") == {running}
    assert ids("type=nobody") == set()


def test_a_page_of_large_jobs_is_cut_and_continued(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    text = "x" * 3_000_000
    ids = driver.enqueue(tenant[0], 5, kwargs=f'{{"delay_ms": 1, "text": "{text}"}}')
    first = api.get("/jobs").json()
    assert len(first["jobs"]) == 3  # the one that goes over 8 MiB is the last
    rest = api.get("/jobs", params={"after": first["next"]}).json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == sorted(ids, reverse=True)
    assert rest["next"] is None


def test_results(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    waiting, done, failed = driver.enqueue(tenant[0], 3)
    driver.claim(done, failed)
    driver.complete(done, result={"slept": 5})
    driver.fail(failed, "it broke")
    assert api.get(f"/jobs/{done}/result").json() == {"status": "COMPLETED", "result": {"slept": 5}}
    for job_id, status, error in ((waiting, "PENDING", None), (failed, "FAILED", "it broke")):
        response = api.get(f"/jobs/{job_id}/result")
        assert response.status_code == 409
        assert (response.json()["job_status"], response.json()["error"]) == (status, error)


def test_cancel(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    waiting, running, done = driver.enqueue(tenant[0], 3)
    driver.claim(running, done)
    driver.complete(done)
    cancelled = api.post(f"/jobs/{waiting}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")
    asked = api.post(f"/jobs/{running}/cancel")
    assert (asked.status_code, asked.json()["status"]) == (202, "RUNNING")
    assert asked.json()["cancel_requested_at"] is not None
    for job_id in (done, waiting):
        refused = api.post(f"/jobs/{job_id}/cancel")
        assert refused.status_code == 409
        assert refused.headers["content-type"] == "application/problem+json"
    assert api.post(f"/jobs/{uuid4()}/cancel").status_code == 404


def test_retry(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    waiting, failed = driver.enqueue(tenant[0], 2, max_attempts=1)
    driver.claim(failed)
    assert api.post(f"/jobs/{failed}/retry").status_code == 409  # RUNNING
    driver.fail(failed)
    again = api.post(f"/jobs/{failed}/retry")
    assert again.status_code == 202
    job = again.json()
    assert (job["status"], job["attempts"], job["max_attempts"]) == ("PENDING", 1, 2)
    assert len(job["errors"]) == 1
    assert api.post(f"/jobs/{waiting}/retry").status_code == 409
    assert api.post(f"/jobs/{uuid4()}/retry").status_code == 404


def test_retry_is_409_while_another_job_holds_the_key(api: httpx.Client, driver: Driver) -> None:
    first = send(api, unique_key="held", delay=60_000)
    assert api.post(f"/jobs/{first['id']}/cancel").status_code == 200
    second = send(api, unique_key="held", delay=60_000)
    assert second["id"] != first["id"]
    refused = api.post(f"/jobs/{first['id']}/retry")
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:callboard:problem:unique-key-taken"
    assert api.get(f"/jobs/{first['id']}").json()["status"] == "CANCELLED"


def test_a_plain_actors_job_is_shown_with_args_and_kwargs(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str]
) -> None:
    [job_id] = driver.enqueue(tenant[0], actor="somebody-elses", args="[1, 2]", kwargs='{"a": null}')
    assert api.get(f"/jobs/{job_id}").json()["payload"] == {"args": [1, 2], "kwargs": {"a": None}}


def test_job_types(api: httpx.Client) -> None:
    kinds = {kind["type"]: kind for kind in api.get("/job-types").json()["job_types"]}
    assert {"sleep", "webhook"} <= kinds.keys()
    schema = kinds["sleep"]["payload_schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["delayMs"]["maximum"] == 60_000
    assert kinds["sleep"]["description"]


def test_health(nobody: httpx.Client) -> None:
    assert nobody.get("/healthz").json() == {"status": "ok"}
    ready = nobody.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{}", "/job-types"])
def test_a_head_is_a_get_without_a_body(api: httpx.Client, driver: Driver, tenant: tuple[str, str], path: str) -> None:
    [job_id] = driver.enqueue(tenant[0])
    response = api.head(path.format(job_id))
    assert response.status_code == 200
    assert not response.content


def test_a_busy_unique_key_is_409_and_nothing_is_stored(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str]
) -> None:
    with transaction(driver.engine).connect() as holder:
        driver.enqueue_on(holder, tenant[0], unique_key="open", unique_scope="live")
        begun = time.monotonic()
        response = api.post("/jobs", json={**SLEEP, "options": {"unique_key": "open"}})
        assert response.status_code == 409
        assert response.json()["type"] == "urn:callboard:problem:unique-key-busy"
        assert 1 < time.monotonic() - begun < 10
        holder.rollback()
    assert driver.versions(tenant[0]) == {}
