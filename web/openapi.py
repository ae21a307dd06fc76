"""``GET /openapi.json``: the API as OpenAPI 3.1, made from the job types that this process knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import JobType, job_types
from models.state import Status
from web.answers import (
    REQUIRED,
    TEXT,
    UUID,
    json_answer,
    json_body,
    operation,
    page_size,
    parameter,
    problems,
    ref,
)
from web.auth import COOKIE, CSRF_HEADER
from web.components import request_schemas, send_examples
from web.cron_schemas import PATHS as CRON_PATHS
from web.cron_schemas import SCHEMAS as CRON_SCHEMAS
from web.domain import domains
from web.idempotency import HEADER, KEY_SCHEMA
from web.job_list import DEFAULT_LIMIT, MAX_LIMIT
from web.schemas import SCHEMAS

_VERSION: Final = "0.1.0"
_DESCRIPTION: Final = (
    "Durable jobs, watched live. Every accepted job is a row in Postgres before it is answered. Times are RFC 3339 in "
    "UTC. Errors are problem documents (RFC 9457) that name each fault by a JSON pointer. Text may not contain NUL or "
    "lone surrogates, and JSON may not nest deeper than 64 levels: 400. A method that an address does not take: 405 "
    "with Allow."
)
#: The groups of operations, in the order in which the documentation shows them.
_TAGS: Final = {
    "Jobs": "Send jobs, look at them, change their course.",
    "Events": "Follow jobs while they run (server-sent events).",
    "Schedules": "Jobs that the clock sends.",
    "Service": "What this service offers, and whether it is well.",
}


async def get_openapi(request: Request) -> Response:
    """The document; readable without a key, as it says nothing of any tenant."""
    return JSONResponse(document(list(job_types().values()), str(request.base_url).rstrip("/")))


def document(kinds: list[JobType], server: str) -> dict[str, Any]:
    """The whole description.

    Args:
      kinds: the job types; each becomes one alternative of POST /jobs.
      server: where the API is, without a slash at the end.
    """
    schemas: dict[str, Any] = SCHEMAS | CRON_SCHEMAS | request_schemas(kinds)
    paths = _paths(send_examples(kinds)) | CRON_PATHS
    for domain in domains():
        schemas |= domain.schemas
        paths |= domain.paths
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": _VERSION, "description": _DESCRIPTION},
        "servers": [{"url": server}],
        "security": [{"key": []}, {"session": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {path: _with_head(item) for path, item in paths.items()},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key: cb_<id>_<secret>."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": f"A signed-in browser; what changes something needs {CSRF_HEADER} as well.",
                },
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "See makeTicket."},
            },
        },
    }


def _with_head(item: Mapping[str, Any]) -> dict[str, Any]:
    """A path item with the HEAD that goes with its GET: the same answer without its content."""
    if "get" not in item or "head" in item:
        return dict(item)
    get = item["get"]
    responses = {
        status: {name: value for name, value in answer.items() if name != "content"}
        for status, answer in get["responses"].items()
    }
    suffixes = (("operationId", "Head"), ("summary", ": the headers only"))
    named = {key: get[key] + suffix for key, suffix in suffixes if key in get}
    return {**item, "head": {**get, **named, "responses": responses}}


_NAME: Final = {"type": "string", "pattern": r"^[^\x00]*$"}
# A time up to the year 8000 and an id, 24 bytes in base64url.
_CURSOR: Final = {"type": "string", "pattern": "^A[A-Za-v][A-Za-z0-9_-]{30}$"}
_LOCATION: Final = {**REQUIRED, "description": "The job's address"}
_ETAG: Final = {"required": True, "schema": {"type": "string", "pattern": '^"[0-9]+"$'}, "description": "Its version"}
_REPLAY: Final = {
    "schema": {"type": "string", "enum": ["true"]},
    "description": "This is the answer to an earlier request with this key",
}
_JOB_ID: Final = parameter("job_id", "path", UUID, "The job's id.")
_LAST: Final = parameter("Last-Event-ID", "header", TEXT, "Where a stream that broke off continues.")
_PREFER: Final = parameter(
    "Prefer", "header", TEXT, "wait=30: answer when there is something new, after 30 s at the latest (60 at most)."
)
_APPLIED: Final = "How long it was ready to wait"
_WAITED: Final = {"description": _APPLIED, "schema": TEXT}
_TYPES: Final = {"type": "array", "items": TEXT}
_STREAM: Final = {
    "description": (
        "Events job (data: JobEvent) and reset (forget what you have, a snapshot follows). First a snapshot, then "
        "the stream; keep the highest version per job."
    ),
    "content": {"text/event-stream": {"schema": TEXT}},
}
_STREAM_SECURITY: Final[list[Any]] = [{"key": []}, {"session": []}, {"ticket": []}]


def _paths(examples: Mapping[str, Any]) -> dict[str, Any]:
    several = {"jobs": [example["value"] for example in examples.values()]}
    send = json_body("Send", examples)
    batch = json_body("Batch", {"several": {"summary": "One of each", "value": several}} if examples else {})
    ticket = {**json_body("TicketRequest", {"types": {"value": {"types": ["sleep"]}}}), "required": False}
    forbidden = "A ticket for other events"
    page = [
        parameter("status", "query", {"type": "array", "items": {"enum": list(Status)}}, "Only these."),
        parameter("type", "query", _NAME, "Only this job type."),
        parameter("queue", "query", _NAME, "Only this queue."),
        parameter("limit", "query", page_size(MAX_LIMIT, DEFAULT_LIMIT), "Jobs."),
        parameter("after", "query", _CURSOR, "The cursor that the page before named as its next."),
    ]
    once = parameter(
        HEADER,
        "header",
        KEY_SCHEMA,
        "Names this request for 24 hours: when it is repeated, nothing is sent again and the answer is the same.",
        example="order-1001",
    )
    text = "Accepted, or the older job with this unique key (then duplicate is true)"
    accepted = json_answer(ref("Job"), text, Location=_LOCATION, ETag=_ETAG, Idempotent_Replayed=_REPLAY)
    all_accepted = json_answer(ref("SentJobs"), "All accepted, in order", Idempotent_Replayed=_REPLAY)
    bad_body = problems(
        s400="Not JSON, JSON that cannot be kept, or a wrong parameter",
        s403="A session without its CSRF token",
        s413="Larger than 1 MiB",
        s415="Not application/json",
        s422="Unknown type, wrong payload, unknown field or option",
    )
    bad_send = bad_body | problems(
        s409="The unique key is busy, or the first request with this Idempotency-Key is not over yet",
        s422="Unknown type, wrong payload, unknown field or option, or a key that was used for another request",
    )
    bad_batch = bad_send | problems(s413="Larger than 16 MiB")
    changed = problems(s403="A session without its CSRF token", s404="No such job", s409="The state forbids it")
    cancelled = {
        "200": json_answer(ref("Job"), "Cancelled", ETag=_ETAG),
        "202": json_answer(ref("Job"), "A running attempt is to stop", ETag=_ETAG),
    }
    again = {"202": json_answer(ref("Job"), "PENDING again", ETag=_ETAG)}
    known: dict[str, Any] = {"description": "That is still its version", "headers": {"ETag": _ETAG}}
    tag = parameter(
        "If-None-Match", "header", TEXT, "ETags that the client has; 304 if one of them is current.", example='"1"'
    )
    public: list[Any] = []
    unready = json_answer(ref("Readiness"), "No")
    return {
        "/jobs": {
            "get": operation(
                "listJobs",
                "The tenant's jobs, newest first",
                {"200": json_answer(ref("JobPage"), "A page", Link="The next page, if there is one: rel=next")},
                problems(s400="A wrong parameter"),
                parameters=page,
                tag="Jobs",
            ),
            "post": operation(
                "sendJob", "Send a job", {"202": accepted}, bad_send, parameters=[once], requestBody=send, tag="Jobs"
            ),
        },
        "/jobs/batch": {
            "post": operation(
                "sendJobs",
                "Send up to 1,000 jobs: all are accepted, or none",
                {"202": all_accepted},
                bad_batch,
                parameters=[once],
                requestBody=batch,
                tag="Jobs",
            ),
        },
        "/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": operation(
                "getJob",
                "One job",
                {
                    "200": json_answer(ref("Job"), "The job", ETag=_ETAG, Preference_Applied=_APPLIED),
                    "304": {**known, "headers": {**known["headers"], "Preference-Applied": _WAITED}},
                },
                problems(s404="No such job"),
                parameters=[tag, _PREFER],
                tag="Jobs",
            ),
        },
        "/jobs/{job_id}/result": {
            "parameters": [_JOB_ID],
            "get": operation(
                "getResult",
                "What the actor returned",
                {"200": json_answer(ref("Result"), "The result", ETag=_ETAG, Preference_Applied=_APPLIED)},
                problems(s404="No such job", s409="Not COMPLETED (yet)"),
                parameters=[_PREFER],
                tag="Jobs",
            ),
        },
        "/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": operation("cancelJob", "Cancel", cancelled, changed, tag="Jobs"),
        },
        "/jobs/{job_id}/retry": {
            "parameters": [_JOB_ID],
            "post": operation("retryJob", "Retry by hand", again, changed, tag="Jobs"),
        },
        "/jobs/{job_id}/events": {
            "parameters": [_JOB_ID, _LAST],
            "get": operation(
                "watchJob",
                "Follow one job",
                {"200": _STREAM},
                problems(s400="A wrong parameter", s403=forbidden, s404="No such job"),
                tag="Events",
                security=_STREAM_SECURITY,
            ),
        },
        "/events": {
            "get": operation(
                "watchJobs",
                "Follow the tenant's jobs",
                {"200": _STREAM},
                problems(s400="A wrong parameter", s403=forbidden),
                tag="Events",
                parameters=[_LAST, parameter("type", "query", _TYPES, "Only these job types.")],
                security=_STREAM_SECURITY,
            ),
        },
        "/events/tickets": {
            "post": operation(
                "makeTicket",
                "An address for a bare EventSource",
                {"200": json_answer(ref("Ticket"), "The ticket")},
                bad_body | problems(s404="No such job"),
                tag="Events",
                requestBody=ticket,
            ),
        },
        "/job-types": {
            "get": operation(
                "listJobTypes",
                "What can be sent",
                {"200": json_answer(ref("JobTypes"), "All")},
                problems(),
                tag="Service",
            )
        },
        "/healthz": {
            "get": operation(
                "healthz", "Serving", {"200": json_answer(ref("Health"), "Yes")}, {}, tag="Service", security=public
            )
        },
        "/queues": {
            "get": operation(
                "listQueues",
                "How many jobs each queue has",
                {"200": json_answer(ref("Queues"), "All")},
                problems(),
                tag="Service",
            )
        },
        "/readyz": {
            "get": operation(
                "readyz",
                "Able to work",
                {"200": json_answer(ref("Readiness"), "Yes"), "503": unready},
                {},
                tag="Service",
                security=public,
            ),
        },
        "/openapi.json": {
            "get": operation(
                "openapi", "This", {"200": json_answer({"type": "object"}, "This")}, {}, tag="Service", security=public
            )
        },
    }
