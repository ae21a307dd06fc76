"""``GET /openapi.json``: the API as OpenAPI 3.1, made from the job types that this process knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import JobType, job_types
from models.state import Status
from web.auth import COOKIE, CSRF_HEADER
from web.components import ref, request_schemas, send_examples
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
    schemas: dict[str, Any] = SCHEMAS | request_schemas(kinds)
    paths = _paths(send_examples(kinds))
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


def _json(schema: dict[str, Any], text: str, **headers: Any) -> dict[str, Any]:
    """An answer in JSON. Headers (``-`` written ``_``): a description, or a header object."""
    answer: dict[str, Any] = {"description": text, "content": {"application/json": {"schema": schema}}}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": what, "schema": _TEXT} if isinstance(what, str) else what
            for name, what in headers.items()
        }
    return answer


def _problems(**texts: str) -> dict[str, Any]:
    """Problems by status (``s404``). Every operation that knows its caller may answer 401 and 503."""
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): _problem(status, text) for status, text in texts.items()}


def _problem(status: str, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": text,
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    if status == "s401":
        answer["headers"] = {"WWW-Authenticate": {**_REQUIRED, "description": "What would be accepted"}}
    if status in ("s409", "s503"):
        what = "Seconds after which it may be repeated"
        answer["headers"] = {"Retry-After": {"description": what, "schema": {"type": "integer", "minimum": 0}}}
    return answer


def _body(name: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    content = {"schema": ref(name)} | ({"examples": dict(examples)} if examples else {})
    return {"required": True, "content": {"application/json": content}}


def _parameter(name: str, place: str, schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": schema, "description": text, "required": place == "path", **more}


_TEXT: Final = {"type": "string"}
_NAME: Final = {"type": "string", "pattern": r"^[^\x00]*$"}
_CURSOR: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{21}[AQgw]$"}  # 16 bytes in base64url
_REQUIRED: Final = {"required": True, "schema": _TEXT}
_LOCATION: Final = {**_REQUIRED, "description": "The job's address"}
_ETAG: Final = {"required": True, "schema": {"type": "string", "pattern": '^"[0-9]+"$'}, "description": "Its version"}
_REPLAY: Final = {
    "schema": {"type": "string", "enum": ["true"]},
    "description": "This is the answer to an earlier request with this key",
}
_JOB_ID: Final = _parameter("job_id", "path", {"type": "string", "format": "uuid"}, "The job's id.")
_LAST: Final = _parameter("Last-Event-ID", "header", _TEXT, "Where a stream that broke off continues.")
_TYPES: Final = {"type": "array", "items": _TEXT}
_STREAM: Final = {
    "description": (
        "Events job (data: JobEvent) and reset (forget what you have, a snapshot follows). First a snapshot, then "
        "the stream; keep the highest version per job."
    ),
    "content": {"text/event-stream": {"schema": _TEXT}},
}
_STREAM_SECURITY: Final[list[Any]] = [{"key": []}, {"session": []}, {"ticket": []}]


def _paths(examples: Mapping[str, Any]) -> dict[str, Any]:
    several = {"jobs": [example["value"] for example in examples.values()]}
    send = _body("Send", examples)
    batch = _body("Batch", {"several": {"summary": "One of each", "value": several}} if examples else {})
    ticket = {**_body("TicketRequest", {"types": {"value": {"types": ["sleep"]}}}), "required": False}
    forbidden = "A ticket for other events"
    page = [
        _parameter("status", "query", {"type": "array", "items": {"enum": list(Status)}}, "Only these."),
        _parameter("type", "query", _NAME, "Only this job type."),
        _parameter("queue", "query", _NAME, "Only this queue."),
        _parameter(
            "limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Jobs."
        ),
        _parameter("after", "query", _CURSOR, "The cursor that the page before named as its next."),
    ]
    once = _parameter(
        HEADER,
        "header",
        KEY_SCHEMA,
        "Names this request for 24 hours: when it is repeated, nothing is sent again and the answer is the same.",
        example="order-1001",
    )
    text = "Accepted, or the older job with this unique key (then duplicate is true)"
    accepted = _json(ref("Job"), text, Location=_LOCATION, ETag=_ETAG, Idempotent_Replayed=_REPLAY)
    all_accepted = _json(ref("SentJobs"), "All accepted, in order", Idempotent_Replayed=_REPLAY)
    bad_body = _problems(
        s400="Not JSON, JSON that cannot be kept, or a wrong parameter",
        s403="A session without its CSRF token",
        s413="Larger than 1 MiB",
        s415="Not application/json",
        s422="Unknown type, wrong payload, unknown field or option",
    )
    bad_send = bad_body | _problems(
        s409="The unique key is busy, or the first request with this Idempotency-Key is not over yet",
        s422="Unknown type, wrong payload, unknown field or option, or a key that was used for another request",
    )
    bad_batch = bad_send | _problems(s413="Larger than 16 MiB")
    changed = _problems(s403="A session without its CSRF token", s404="No such job", s409="The state forbids it")
    cancelled = {
        "200": _json(ref("Job"), "Cancelled", ETag=_ETAG),
        "202": _json(ref("Job"), "A running attempt is to stop", ETag=_ETAG),
    }
    again = {"202": _json(ref("Job"), "PENDING again", ETag=_ETAG)}
    known = {"description": "That is still its version", "headers": {"ETag": _ETAG}}
    tag = _parameter(
        "If-None-Match", "header", _TEXT, "ETags that the client has; 304 if one of them is current.", example='"1"'
    )
    public: list[Any] = []
    unready = _json(ref("Readiness"), "No")
    return {
        "/jobs": {
            "get": _operation(
                "listJobs",
                "The tenant's jobs, newest first",
                {"200": _json(ref("JobPage"), "A page", Link="The next page, if there is one: rel=next")},
                _problems(s400="A wrong parameter"),
                parameters=page,
            ),
            "post": _operation(
                "sendJob", "Send a job", {"202": accepted}, bad_send, parameters=[once], requestBody=send
            ),
        },
        "/jobs/batch": {
            "post": _operation(
                "sendJobs",
                "Send up to 1,000 jobs: all are accepted, or none",
                {"202": all_accepted},
                bad_batch,
                parameters=[once],
                requestBody=batch,
            ),
        },
        "/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "getJob",
                "One job",
                {"200": _json(ref("Job"), "The job", ETag=_ETAG), "304": known},
                _problems(s404="No such job"),
                parameters=[tag],
            ),
        },
        "/jobs/{job_id}/result": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "getResult",
                "What the actor returned",
                {"200": _json(ref("Result"), "The result", ETag=_ETAG)},
                _problems(s404="No such job", s409="Not COMPLETED (yet)"),
            ),
        },
        "/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": _operation("cancelJob", "Cancel", cancelled, changed),
        },
        "/jobs/{job_id}/retry": {
            "parameters": [_JOB_ID],
            "post": _operation("retryJob", "Retry by hand", again, changed),
        },
        "/jobs/{job_id}/events": {
            "parameters": [_JOB_ID, _LAST],
            "get": _operation(
                "watchJob",
                "Follow one job",
                {"200": _STREAM},
                _problems(s400="A wrong parameter", s403=forbidden, s404="No such job"),
                tag="Events",
                security=_STREAM_SECURITY,
            ),
        },
        "/events": {
            "get": _operation(
                "watchJobs",
                "Follow the tenant's jobs",
                {"200": _STREAM},
                _problems(s400="A wrong parameter", s403=forbidden),
                tag="Events",
                parameters=[_LAST, _parameter("type", "query", _TYPES, "Only these job types.")],
                security=_STREAM_SECURITY,
            ),
        },
        "/events/tickets": {
            "post": _operation(
                "makeTicket",
                "An address for a bare EventSource",
                {"200": _json(ref("Ticket"), "The ticket")},
                bad_body | _problems(s404="No such job"),
                tag="Events",
                requestBody=ticket,
            ),
        },
        "/job-types": {
            "get": _operation(
                "listJobTypes", "What can be sent", {"200": _json(ref("JobTypes"), "All")}, _problems(), tag="Service"
            )
        },
        "/healthz": {
            "get": _operation(
                "healthz", "Serving", {"200": _json(ref("Health"), "Yes")}, {}, tag="Service", security=public
            )
        },
        "/readyz": {
            "get": _operation(
                "readyz",
                "Able to work",
                {"200": _json(ref("Readiness"), "Yes"), "503": unready},
                {},
                tag="Service",
                security=public,
            ),
        },
        "/openapi.json": {
            "get": _operation(
                "openapi", "This", {"200": _json({"type": "object"}, "This")}, {}, tag="Service", security=public
            )
        },
    }


def _operation(
    name: str, text: str, good: dict[str, Any], bad: dict[str, Any], *, tag: str = "Jobs", **more: Any
) -> dict[str, Any]:
    return {"operationId": name, "summary": text, "tags": [tag], "responses": good | bad, **more}
