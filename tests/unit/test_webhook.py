"""The ``webhook`` job type: what it sends, what it makes of the answers, what its payload may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import time
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from actors.runtime.errors import PermanentError, RetryLater
from actors.runtime.guarded_http import AddressRefused, RequestFailed
from actors.webhook import WebhookFailed, WebhookPayload, call_webhook, deliver, retry_after_ms
from models.errors import DataRefused
from tests.unit.hook_server import Answer, HookServer, plain, raw, serving

pytestmark = pytest.mark.unit

JOB = UUID("01980000-0000-7000-8000-000000000001")


def call(server: HookServer | str, *, attempt: int = 1, deadline_s: float = 30, **payload: Any) -> dict[str, Any]:
    url = server if isinstance(server, str) else server.url
    return deliver(
        WebhookPayload(url=url, **payload), job_id=JOB, attempt=attempt, allow_loopback=True, deadline_s=deadline_s
    )


def test_the_actor_carries_the_contracts_name_and_attempts() -> None:
    assert call_webhook.actor_name == "webhook"
    assert call_webhook.options["max_retries"] == 2


def test_a_call_that_succeeds() -> None:
    with serving(plain(200, b"thanks")) as server:
        result = call(server, body={"a": [1, "é"]}, headers={"X-Mine": "yes"})
    assert result.pop("duration_ms") >= 0
    assert result == {"status": 200, "body": "thanks", "truncated": False}
    (seen,) = server.seen
    assert seen.method == "POST"
    assert json.loads(seen.body) == {"a": [1, "é"]}
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["user-agent"] == "Callboard"
    assert seen.headers["x-mine"] == "yes"
    assert seen.headers["webhook-id"] == f"msg_{JOB}"
    assert seen.headers["webhook-attempt"] == "1"
    assert abs(int(seen.headers["webhook-timestamp"]) - time()) < 10


def test_every_attempt_has_the_same_id() -> None:
    with serving(plain()) as server:
        call(server, attempt=1)
        call(server, attempt=2)
    first, second = (seen.headers for seen in server.seen)
    assert first["webhook-id"] == second["webhook-id"]
    assert [first["webhook-attempt"], second["webhook-attempt"]] == ["1", "2"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
def test_methods(method: str) -> None:
    with serving(plain(204, b"")) as server:
        assert call(server, method=method)["status"] == 204
    (seen,) = server.seen
    assert (seen.method, seen.body) == (method, b"")
    assert "content-type" not in seen.headers
    assert seen.headers.get("content-length") == ("0" if method in ("POST", "PUT", "PATCH") else None)


@pytest.mark.parametrize(
    ("body", "content_type", "sent", "sent_type"),
    [
        ("text", None, b'"text"', "application/json"),
        ("text", "text/plain", b"text", "text/plain"),
        ("<a/>", "application/xml; charset=utf-8", b"<a/>", "application/xml; charset=utf-8"),
        ("text", "application/json", b'"text"', "application/json"),
        ("text", "application/ld+json; profile=x", b'"text"', "application/ld+json; profile=x"),
        ([1], "application/cloudevents+json", b"[1]", "application/cloudevents+json"),
        ({"a": 1}, "text/plain", b'{"a":1}', "text/plain"),
        (0, None, b"0", "application/json"),
        (False, None, b"false", "application/json"),
        ("", "text/plain", b"", "text/plain"),
        (None, None, b"", None),
    ],
)
def test_bodies(body: object, content_type: str | None, sent: bytes, sent_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else None
    with serving(plain()) as server:
        call(server, body=body, headers=headers)
    assert server.seen[0].body == sent
    assert server.seen[0].headers.get("content-type") == sent_type


@pytest.mark.parametrize(
    ("answer", "body", "truncated"),
    [
        (plain(body=b"x" * 2048), "x" * 2048, False),
        (plain(body=b"x" * 2049), "x" * 2048, True),
        (plain(body=b"x" * 200_000), "x" * 2048, True),
        (plain(body=b"x" + "é".encode() * 1024), "x" + "é" * 1023, True),
        (plain(body=b"a\0b\xffc"), "ab\ufffdc", False),
    ],
)
def test_the_result_keeps_text_that_can_be_stored(answer: Answer, body: str, truncated: bool) -> None:
    with serving(answer) as server:
        result = call(server)
    assert (result["body"], result["truncated"]) == (body, truncated)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (301, "webhook answered 301 Moved Permanently; redirects are not followed"),
        (304, "webhook answered 304 Not Modified; redirects are not followed"),
        (400, "webhook answered 400 Bad Request"),
        (404, "webhook answered 404 Not Found"),
        (500, "webhook answered 500 Internal Server Error"),
        (503, "webhook answered 503 Service Unavailable"),
        (599, "webhook answered 599"),
    ],
)
def test_a_failing_status_is_named(status: int, message: str) -> None:
    answer = plain(status, b"", Location="http://127.0.0.1:9/")
    with serving(answer) as server, pytest.raises(WebhookFailed) as caught:
        call(server)
    assert str(caught.value) == message
    assert not isinstance(caught.value, PermanentError)
    assert len(server.seen) == 1


def test_gone_is_permanent() -> None:
    with serving(plain(410, b"", Retry_After="1")) as server, pytest.raises(PermanentError, match="410 Gone"):
        call(server)


def test_retry_after_puts_the_next_attempt_off() -> None:
    with serving(plain(429, b"", Retry_After="7")) as server, pytest.raises(RetryLater) as caught:
        call(server)
    assert caught.value.delay == 7000
    assert str(caught.value) == "webhook answered 429 Too Many Requests"


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "delay_ms"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120_000),
        ("999999", 3_600_000),
        ("9" * 5000, None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90_000),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 3_600_000),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10_000),
        ("Fri, 99 Jan 2026 03:04:15 GMT", None),
    ],
)
def test_retry_after(value: str | None, delay_ms: int | None) -> None:
    assert retry_after_ms(value, NOW) == delay_ms


def test_a_drip_is_cut() -> None:
    answer = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", drip=b"x")
    with serving(answer) as server, pytest.raises(RequestFailed, match=r"within 0\.5 s"):
        call(server, deadline_s=0.5)


def test_an_inner_address_is_permanent() -> None:
    with pytest.raises(AddressRefused):
        call("http://169.254.169.254/latest/meta-data/")


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({}, "url"),
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "http://user:secret@example.com"}, "url"),
        ({"url": "http://example.com/" + "a" * 2048}, "url"),
        ({"url": ""}, "url"),
        ({"url": 7}, "url"),
        ({"url": "http://e.test", "method": "TRACE"}, "method"),
        ({"url": "http://e.test", "method": "post"}, "method"),
        ({"url": "http://e.test", "headers": {"Host": "x"}}, "headers"),
        ({"url": "http://e.test", "headers": {"A": "b\r\nC: d"}}, "headers"),
        ({"url": "http://e.test", "headers": {"A": "1", "a": "2"}}, "headers"),
        ({"url": "http://e.test", "headers": {"A": 1}}, "headers"),
        ({"url": "http://e.test", "headers": {f"h{n}": "" for n in range(51)}}, "headers"),
        ({"url": "http://e.test", "retries": 3}, "retries"),
    ],
)
def test_payloads_that_are_refused(payload: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookPayload.model_validate(payload)
    assert caught.value.errors()[0]["loc"][0] == where


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"a": float("nan")}, "/body/a"),
        ([{1, 2}], "/body/0"),
        ("\0", "/body"),
        ({"a": "\ud800"}, "/body/a"),
        ([b"x"], "/body/0"),
        ({"n": 10**400}, "/body/n"),
    ],
    ids=range(6),
)
def test_bodies_that_cannot_be_kept_are_refused(body: object, pointer: str) -> None:
    with pytest.raises(DataRefused) as caught:
        WebhookPayload.model_validate({"url": "http://e.test", "body": body})
    assert caught.value.pointer == pointer


def test_a_payload_with_everything() -> None:
    payload = {"url": "https://e.test/x", "method": "PUT", "headers": {"A": ""}, "body": [None]}
    assert WebhookPayload.model_validate(payload).model_dump() == payload
    assert WebhookPayload.model_validate({"url": "https://e.test"}).method == "POST"
    assert WebhookPayload.model_json_schema()["required"] == ["url"]
