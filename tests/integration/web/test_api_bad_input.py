"""Whatever is wrong with a request is answered with a problem that names it, and nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.ledger_driver import Driver
from tests.web_server import WebServer

JSON = {"Content-Type": "application/json"}


def sleep(payload: str = '{"delayMs": 1}', more: str = "") -> bytes:
    return f'{{"type": "sleep", "payload": {payload}{more}}}'.encode()


def webhook(value: str) -> bytes:
    """A webhook whose JSON body is this."""
    return f'{{"type": "webhook", "payload": {{"url": "https://a.example/", "body": {value}}}}}'.encode()


#: name → body, status, and a pointer or a word that the problem names.
BODIES: dict[str, tuple[bytes, int, str]] = {
    "unknown type": (b'{"type": "nope", "payload": {}}', 422, "/type"),
    "type of another kind": (b'{"type": 5, "payload": {}}', 422, "/type"),
    "wrong payload": (sleep('{"delayMs": "soon"}'), 422, "/payload/delayMs"),
    "payload out of range": (sleep('{"delayMs": 60001}'), 422, "/payload/delayMs"),
    "missing payload field": (sleep("{}"), 422, "/payload/delayMs"),
    "payload is a list": (sleep("[]"), 422, "/payload"),
    "no payload": (b'{"type": "sleep"}', 422, "/payload"),
    "extra payload field": (sleep('{"delayMs": 1, "extra": 2}'), 422, "/payload/extra"),
    "python name on the wire": (sleep('{"delay_ms": 1}'), 422, "/payload/delay_ms"),
    "extra field": (sleep(more=', "queue": "x"'), 422, "/queue"),
    "tenant in the body": (sleep(more=', "tenant_id": "default"'), 422, "/tenant_id"),
    "tenant in the options": (sleep(more=', "options": {"tenant_id": "default"}'), 422, "/options/tenant_id"),
    "raw max_retries": (sleep(more=', "options": {"max_retries": 9}'), 422, "/options/max_retries"),
    "raw throws": (sleep(more=', "options": {"throws": []}'), 422, "/options/throws"),
    "raw pipe_target": (sleep(more=', "options": {"pipe_target": {}}'), 422, "/options/pipe_target"),
    "raw queue_name": (sleep(more=', "options": {"queue_name": "x"}'), 422, "/options/queue_name"),
    "raw on_success": (sleep(more=', "options": {"on_success": "sleep"}'), 422, "/options/on_success"),
    "options are a list": (sleep(more=', "options": []'), 422, "/options"),
    "delay below zero": (sleep(more=', "options": {"delay": -1}'), 422, "/options/delay"),
    "delay of another kind": (sleep(more=', "options": {"delay": true}'), 422, "/options/delay"),
    "priority out of range": (sleep(more=', "options": {"priority": 11}'), 422, "/options/priority"),
    "priority is a fraction": (sleep(more=', "options": {"priority": 1.5}'), 422, "/options/priority"),
    "no attempts": (sleep(more=', "options": {"max_attempts": 0}'), 422, "/options/max_attempts"),
    "run_at without offset": (sleep(more=', "options": {"run_at": "2030-01-01T00:00:00"}'), 422, "/options/run_at"),
    "run_at is no time": (sleep(more=', "options": {"run_at": "soon"}'), 422, "/options/run_at"),
    "run_at is a number": (sleep(more=', "options": {"run_at": 5}'), 422, "/options/run_at"),
    "run_at and delay": (
        sleep(more=', "options": {"run_at": "2030-01-01T00:00:00Z", "delay": 5}'), 422, "/options/run_at",
    ),
    "backoff of no type": (sleep(more=', "options": {"backoff": {"delay": 5}}'), 422, "/options/backoff"),
    "backoff of unknown type": (
        sleep(more=', "options": {"backoff": {"type": "wild", "delay": 5}}'), 422, "/options/backoff",
    ),
    "unique key too long": (
        sleep(more=f', "options": {{"unique_key": "{"k" * 256}"}}'), 422, "/options/unique_key",
    ),
    "unique key empty": (sleep(more=', "options": {"unique_key": ""}'), 422, "/options/unique_key"),
    "10 MB": (webhook('"' + "x" * 10_000_000 + '"'), 413, "1,048,576 bytes"),
    "empty": (b"", 400, "not valid JSON"),
    "invalid JSON": (b'{"type": "sleep", "payload": {', 400, "not valid JSON"),
    "trailing comma": (b'{"type": "sleep", "payload": {"delayMs": 1,}}', 400, "not valid JSON"),
    "a list": (b"[]", 422, "object"),
    "invalid UTF-8": (webhook('"\N{LATIN SMALL LETTER E WITH ACUTE}"').replace(b"\xc3\xa9", b"\xe9"), 400, "UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + sleep(), 400, "JSON"),
    "UTF-16": (sleep().decode().encode("utf-16"), 400, "UTF-8"),
    "NUL": (webhook('"a\\u0000b"'), 400, "/payload/body"),
    "NUL in a key": (webhook('{"a\\u0000b": 1}'), 400, "NUL"),
    "lone surrogate": (webhook('"a\\ud800b"'), 400, "/payload/body"),
    "NaN": (webhook("[1, NaN]"), 400, "/payload/body/1"),
    "Infinity": (webhook("-Infinity"), 400, "/payload/body"),
    "1e400": (webhook("1e400"), 400, "/payload/body"),
    "depth 10,000": (webhook("[" * 10_000 + "]" * 10_000), 400, "deeper"),
    "5,000-digit integer": (webhook("9" * 5_000), 400, "/payload/body"),
    "key twice": (b'{"type": "sleep", "type": "webhook", "payload": {}}', 400, "/type"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(web: WebServer, driver: Driver) -> Iterator[tuple[httpx.Client, str]]:
    """One tenant and client for all bad requests."""
    name, key = driver.tenant()
    with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
        yield client, name


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused(shared: tuple[httpx.Client, str], driver: Driver, name: str) -> None:
    client, tenant = shared
    body, status, named = BODIES[name]
    answer = problem(client.post("/jobs", content=body, headers=JSON), status)
    if named.startswith("/"):
        assert named in [fault["pointer"] for fault in answer["errors"]]
        assert all(fault["detail"] for fault in answer["errors"])
    else:
        assert named in json.dumps(answer)
    assert driver.versions(tenant) == {}


def test_all_faults_are_named_at_once(api: httpx.Client) -> None:
    body = {"type": "nope", "payload": 5, "options": {"throws": 1, "delay": "x", "run_at": "y"}}
    pointers = {fault["pointer"] for fault in problem(api.post("/jobs", json=body), 422)["errors"]}
    assert pointers == {"/type", "/payload", "/options/throws", "/options/delay", "/options/run_at"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_415(api: httpx.Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    problem(api.post("/jobs", content=sleep(), headers=headers), 415)


def test_a_body_that_grows_without_saying_so_is_413(shared: tuple[httpx.Client, str]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"type": "webhook", "payload": {"url": "'
        for _ in range(40):
            yield b"x" * 50_000

    problem(shared[0].post("/jobs", content=chunks(), headers=JSON), 413)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Bearer cb_000000000000_wrong",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer cb__",
        "Bearer \u00fc_\u00fc_\u00fc",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/jobs"),
        ("GET", "/jobs"),
        ("GET", "/jobs/01a205fc-e74c-70c1-981f-dbcba0257d57"),
        ("GET", "/jobs/01a205fc-e74c-70c1-981f-dbcba0257d57/result"),
        ("POST", "/jobs/01a205fc-e74c-70c1-981f-dbcba0257d57/cancel"),
        ("POST", "/jobs/01a205fc-e74c-70c1-981f-dbcba0257d57/retry"),
        ("GET", "/jobs/01a205fc-e74c-70c1-981f-dbcba0257d57/events"),
        ("GET", "/events"),
        ("POST", "/events/tickets"),
        ("GET", "/job-types"),
    ],
)
def test_no_key_and_wrong_keys_are_401(nobody: httpx.Client, method: str, path: str, authorization: str | None) -> None:
    headers = {"Content-Type": "application/json"}
    if authorization is not None:
        headers["Authorization"] = authorization.encode("latin-1")  # type: ignore[assignment]
    response = nobody.request(method, path, headers=headers, content=sleep() if method == "POST" else b"")
    problem(response, 401)
    assert "Bearer" in response.headers["www-authenticate"]


def test_the_right_id_with_the_wrong_secret_is_401(nobody: httpx.Client, tenant: tuple[str, str]) -> None:
    key = tenant[1]
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert nobody.get("/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    problem(nobody.get("/jobs", headers={"Authorization": f"Bearer {wrong}"}), 401)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=%C2%B2", "limit"),
        ("status=DONE", "status"),
        ("status=pending", "status"),
        ("after=xyz", "after"),
        ("after=%C3%BC", "after"),
        ("stauts=PENDING", "stauts"),
        ("type=a&type=b", "type"),
        ("type=a%00b", "type"),
        ("queue=%00", "queue"),
    ],
)
def test_a_wrong_parameter_is_named(api: httpx.Client, query: str, name: str) -> None:
    answer = problem(api.get(f"/jobs?{query}"), 400)
    assert [fault["parameter"] for fault in answer["errors"]] == [name]


@pytest.mark.parametrize(
    "job_id", ["x", "1", "01a205fc-e74c-70c1-981f-dbcba0257d5", "{01a205fc-e74c-70c1-981f-dbcba0257d57}"]
)
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel")])
def test_what_is_no_id_is_404(api: httpx.Client, job_id: str, method: str, rest: str) -> None:
    problem(api.request(method, f"/jobs/{job_id}{rest}"), 404)


def test_unknown_addresses_and_methods_are_problems(api: httpx.Client) -> None:
    problem(api.get("/nothing/here"), 404)
    response = api.delete("/jobs")
    problem(response, 405)
    assert {"GET", "POST"} <= {method.strip() for method in response.headers["allow"].split(",")}
