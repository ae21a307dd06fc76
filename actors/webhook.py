"""``webhook``: one HTTP request to a URL of the tenant's choice; 2xx is success."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import monotonic, time
from typing import Annotated, Any, Literal
from uuid import UUID

import dramatiq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from actors.runtime import current_job, job_type
from actors.runtime.errors import PermanentError, RetryLater
from actors.runtime.guarded_http import DEADLINE_S, GuardedResponse, header_fault, request, url_fault
from models.errors import CallboardError, DataRefused
from models.json_data import MAX_ARGS_BYTES, clean_text, encode
from models.settings import get_settings

#: Bytes of the answer's body that the job's result keeps.
RESULT_BODY_BYTES = 2048
#: Milliseconds that a Retry-After may put off the next attempt.
MAX_RETRY_AFTER_MS = 3_600_000
MAX_HEADERS = 50

_JSON_TYPE = re.compile(r"\s*[\w.+-]+/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)  # RFC 6839 section 3.1


class WebhookFailed(CallboardError):
    """The webhook's receiver did not answer with a 2xx status."""


def _checked_url(url: str) -> str:
    if fault := url_fault(url):
        raise ValueError(fault)
    return url


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        if fault := header_fault(name, value):
            raise ValueError(f"{clean_text(name, 80)!r} {fault}")
        if name.lower() in seen:
            raise ValueError(f"{clean_text(name, 80)!r} is given twice")
        seen.add(name.lower())
    return headers


def _checked_body(body: Any) -> Any:
    # Before pydantic's serialiser sees it, which would turn a set into a list and NaN into null without a word.
    try:
        encode(body, max_bytes=MAX_ARGS_BYTES)
    except DataRefused as refused:
        raise DataRefused(refused.reason, f"/body{refused.pointer}") from None
    return body


#: What :func:`url_fault` and :func:`header_fault` say, as far as JSON Schema can say it.
_URL_SCHEMA: dict[str, Any] = {"format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"}
_HEADERS_SCHEMA = {
    "type": "object",
    "maxProperties": MAX_HEADERS,
    "propertyNames": {"pattern": r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$"},
    "additionalProperties": {"type": "string", "maxLength": 8192, "pattern": r"^[\t\x20-\x7e\x80-\xff]*$"},
}


class WebhookPayload(BaseModel):
    """What ``POST /jobs`` takes as the payload of a ``webhook`` job."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, AfterValidator(_checked_url)] = Field(
        min_length=1,
        max_length=2048,
        description="http:// or https://, a public host, no user name in it",
        examples=["https://example.com/hook"],
        json_schema_extra=_URL_SCHEMA,
    )
    method: Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"] = "POST"
    headers: (
        Annotated[
            dict[str, str],
            Field(max_length=MAX_HEADERS),
            AfterValidator(_checked_headers),
            WithJsonSchema(_HEADERS_SCHEMA),
        ]
        | None
    ) = Field(None, description="sent with the request; Host, Content-Length, webhook-id… are ours")
    body: Annotated[Any, AfterValidator(_checked_body)] = Field(
        None, description="sent as JSON; a string with a Content-Type that is not JSON is sent as it is"
    )


def deliver(
    payload: WebhookPayload,
    *,
    job_id: UUID,
    attempt: int,
    allow_loopback: bool,
    deadline_s: float = DEADLINE_S,
    check: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Make the request of one attempt.

    The header ``webhook-id`` is the same in every attempt of a job, so that receivers can tell a repeat from a new
    event (Standard Webhooks); ``webhook-timestamp`` (Unix seconds) and ``webhook-attempt`` are the attempt's own.

    Returns:
      ``status``, ``body`` (its first 2 KiB as text), ``truncated`` and ``duration_ms``.

    Raises:
      PermanentError: 410 Gone, or a URL or address that may not be reached.
      RetryLater: another status than 2xx, with a Retry-After.
      WebhookFailed: another status than 2xx; redirects are not followed and count as such.
      RequestFailed: no complete answer before the deadline.
    """
    content, content_type = render_body(payload.body, payload.headers or {})
    own_headers = {
        "user-agent": "Callboard",
        "webhook-id": f"msg_{job_id}",
        "webhook-timestamp": str(int(time())),
        "webhook-attempt": str(attempt),
    }
    if content_type is not None:
        own_headers["content-type"] = content_type
    started = monotonic()
    response = request(
        payload.method,
        payload.url,
        headers=payload.headers,
        own_headers=own_headers,
        content=content,
        deadline_s=deadline_s,
        allow_loopback=allow_loopback,
        check=check,
    )
    duration_ms = round((monotonic() - started) * 1000)
    if not 200 <= response.status < 300:
        raise _failure(response)
    kept = response.body[:RESULT_BODY_BYTES]
    truncated = response.truncated or len(kept) < len(response.body)
    return {
        "status": response.status,
        "body": _text(kept, whole=not truncated),
        "truncated": truncated,
        "duration_ms": duration_ms,
    }


def render_body(body: object, headers: Mapping[str, str]) -> tuple[bytes, str | None]:
    """The bytes to send and the Content-Type to name when the tenant named none."""
    if body is None:
        return b"", None
    named = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    if named is not None and isinstance(body, str) and not _JSON_TYPE.fullmatch(named):
        return body.encode(), None
    return encode(body, max_bytes=MAX_ARGS_BYTES).encode(), "application/json"


def retry_after_ms(value: str | None, now: datetime) -> int | None:
    """Milliseconds that a Retry-After header (RFC 9110 section 10.2.3) asks for: 0 to one hour, None if unreadable."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,12}", value):
        return min(int(value) * 1000, MAX_RETRY_AFTER_MS)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000": UTC, RFC 5322 section 3.3
            moment = moment.replace(tzinfo=UTC)
        ahead_ms = int((moment - now).total_seconds() * 1000)
    except (ValueError, OverflowError):
        return None
    return max(0, min(ahead_ms, MAX_RETRY_AFTER_MS))


def _failure(response: GuardedResponse) -> Exception:
    try:
        phrase = f" {HTTPStatus(response.status).phrase}"  # ours: the server's own phrase is anybody's text
    except ValueError:
        phrase = ""
    message = f"webhook answered {response.status}{phrase}"
    if 300 <= response.status < 400:
        message += "; redirects are not followed"
    if response.status == HTTPStatus.GONE:
        return PermanentError(message)
    delay_ms = retry_after_ms(response.headers.get("retry-after"), datetime.now(UTC))
    if delay_ms is not None:
        return RetryLater(message, delay=delay_ms)
    return WebhookFailed(message)


def _text(body: bytes, *, whole: bool) -> str:
    # An incremental decoder leaves out a last character that the cut has split.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(body, whole)
    return clean_text(text, RESULT_BODY_BYTES)


@job_type(WebhookPayload)
@dramatiq.actor(actor_name="webhook", max_retries=2, time_limit=60_000)
def call_webhook(
    url: str, method: str = "POST", headers: dict[str, str] | None = None, body: Any = None
) -> dict[str, Any]:
    """Make one HTTP request; any answer but 2xx is tried again, 410 is final."""
    job = current_job()
    return deliver(
        WebhookPayload.model_construct(url=url, method=method, headers=headers, body=body),  # job_type has validated
        job_id=job.id,
        attempt=job.attempt,
        allow_loopback=get_settings().webhook_allow_loopback,
        check=job.check,
    )
