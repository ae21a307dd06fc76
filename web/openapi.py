"""``GET /openapi.json``: the API as OpenAPI 3.1, made from the job types that this process knows."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import JobType, job_types
from models.state import Status
from web.cron_schemas import PATHS as CRON_PATHS
from web.cron_schemas import SCHEMAS as CRON_SCHEMAS
from web.domain import domains
from web.job_list import DEFAULT_LIMIT, MAX_LIMIT
from web.job_type_list import description
from web.schemas import SCHEMAS
from web.send_options import OPTION_SCHEMAS

_VERSION: Final = "0.1.0"


async def get_openapi(request: Request) -> Response:
    """The document; readable without a key, as it says nothing of any tenant."""
    return JSONResponse(document(list(job_types().values()), str(request.base_url).rstrip("/")))


def document(kinds: list[JobType], server: str) -> dict[str, Any]:
    """The whole description.

    Args:
      kinds: the job types; each becomes one alternative of POST /jobs.
      server: where the API is, without a slash at the end.
    """
    schemas: dict[str, Any] = {**SCHEMAS, **CRON_SCHEMAS}
    options = {"type": "object", "additionalProperties": False, "properties": OPTION_SCHEMAS}
    schemas["SendOptions"] = options
    sends = []
    for kind in kinds:
        name = f"Payload.{component_name(kind.name)}"
        schemas |= hoisted(name, kind.schema())
        send = {
            "type": "object",
            "required": ["type", "payload"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": kind.name, "description": description(kind)},
                "payload": _ref(name),
                "options": _ref("SendOptions"),
            },
        }
        schemas[f"Send.{component_name(kind.name)}"] = send
        sends.append(_ref(f"Send.{component_name(kind.name)}"))
    # "not" anything: with no job types there is nothing that could be sent.
    schemas["Send"] = {"oneOf": sends} if sends else {"not": {}}
    paths = _paths() | CRON_PATHS
    for domain in domains():
        schemas |= domain.schemas
        paths |= domain.paths
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": _VERSION, "description": "Durable jobs, watched live."},
        "servers": [{"url": server}],
        "security": [{"key": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key: cb_<id>_<secret>."},
                "session": {"type": "apiKey", "in": "cookie", "name": "cb_session"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def component_name(name: str) -> str:
    """A job type's name as OpenAPI allows it for a component."""
    return re.sub(r"[^a-zA-Z0-9._-]", "_", name)


def hoisted(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema and its ``$defs`` as components: ``#/$defs/X`` would point to the root of the document."""
    definitions = schema.get("$defs", {})
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    found = {name: rest} | {f"{name}.{component_name(key)}": value for key, value in definitions.items()}
    return {key: _moved(value, name) for key, value in found.items()}


def _moved(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_moved(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, name) for key, item in value.items()}
    target = value.get("$ref")
    if isinstance(target, str) and target.startswith("#/$defs/"):
        moved["$ref"] = f"#/components/schemas/{name}.{component_name(target.removeprefix('#/$defs/'))}"
    return moved


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], text: str, **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": text, "content": {"application/json": {"schema": schema}}}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": what, "schema": {"type": "string"}}
            for name, what in headers.items()
        }
    return answer


def _problems(**texts: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): {"description": text, "content": content} for status, text in texts.items()}


def _parameter(name: str, place: str, schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": schema, "description": text, "required": place == "path", **more}


_TEXT: Final = {"type": "string"}
_JOB_ID: Final = _parameter("job_id", "path", {"type": "string", "format": "uuid"}, "The job's id.")
_LAST: Final = _parameter("Last-Event-ID", "header", _TEXT, "Where a stream that broke off continues.")
_TYPES: Final = {"type": "array", "items": _TEXT}
_STREAM: Final = {
    "description": (
        "Events `job` (data: JobEvent) and `reset` (forget what you have, a snapshot follows). First a snapshot, then "
        "the stream; keep the highest version per job."
    ),
    "content": {"text/event-stream": {"schema": _TEXT}},
}
_STREAM_SECURITY: Final[list[Any]] = [{"key": []}, {"session": []}, {"ticket": []}]


def _paths() -> dict[str, Any]:
    send = {"required": True, "content": {"application/json": {"schema": _ref("Send")}}}
    ticket = {"required": False, "content": {"application/json": {"schema": _ref("TicketRequest")}}}
    forbidden = "A ticket for other events"
    page = [
        _parameter("status", "query", {"type": "array", "items": {"enum": list(Status)}}, "Only these."),
        _parameter("type", "query", _TEXT, "Only this job type."),
        _parameter("queue", "query", _TEXT, "Only this queue."),
        _parameter(
            "limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Jobs."
        ),
        _parameter("after", "query", _TEXT, "The cursor that the page before named as its next."),
    ]
    accepted = _json(_ref("Job"), "Accepted, or the older job with this unique key (`duplicate`)", Location="The job")
    bad_send = _problems(
        s400="Not JSON, or JSON that cannot be kept",
        s403="A session without its CSRF token",
        s409="The unique key is busy",
        s413="Larger than 1 MiB",
        s415="Not application/json",
        s422="Unknown type, wrong payload, unknown field or option",
    )
    changed = _problems(s403="A session without its CSRF token", s404="No such job", s409="The state forbids it")
    cancelled = {"200": _json(_ref("Job"), "Cancelled"), "202": _json(_ref("Job"), "A running attempt is to stop")}
    public: list[Any] = []
    anything = {"type": "object"}
    return {
        "/jobs": {
            "get": _operation(
                "listJobs",
                "The tenant's jobs, newest first",
                {"200": _json(_ref("JobPage"), "A page", Link="The next page")},
                _problems(s400="A wrong parameter"),
                parameters=page,
            ),
            "post": _operation("sendJob", "Send a job", {"202": accepted}, bad_send, requestBody=send),
        },
        "/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "getJob",
                "One job",
                {"200": _json(_ref("Job"), "The job", ETag="Its version"), "304": {"description": "Known"}},
                _problems(s404="No such job"),
            ),
        },
        "/jobs/{job_id}/result": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "getResult",
                "What the actor returned",
                {"200": _json(_ref("Result"), "The result")},
                _problems(s404="No such job", s409="Not COMPLETED (yet)"),
            ),
        },
        "/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": _operation("cancelJob", "Cancel", cancelled, changed),
        },
        "/jobs/{job_id}/retry": {
            "parameters": [_JOB_ID],
            "post": _operation("retryJob", "Retry by hand", {"202": _json(_ref("Job"), "PENDING again")}, changed),
        },
        "/jobs/{job_id}/events": {
            "parameters": [_JOB_ID, _LAST],
            "get": _operation(
                "watchJob",
                "Follow one job",
                {"200": _STREAM},
                _problems(s403=forbidden, s404="No such job"),
                security=_STREAM_SECURITY,
            ),
        },
        "/events": {
            "get": _operation(
                "watchJobs",
                "Follow the tenant's jobs",
                {"200": _STREAM},
                _problems(s400="A wrong parameter", s403=forbidden),
                parameters=[_LAST, _parameter("type", "query", _TYPES, "Only these job types.")],
                security=_STREAM_SECURITY,
            ),
        },
        "/events/tickets": {
            "post": _operation(
                "makeTicket",
                "An address for a bare EventSource",
                {"200": _json(_ref("Ticket"), "The ticket")},
                bad_send | _problems(s404="No such job"),
                requestBody=ticket,
            ),
        },
        "/job-types": {
            "get": _operation("listJobTypes", "What can be sent", {"200": _json(_ref("JobTypes"), "All")}, _problems())
        },
        "/healthz": {"get": _operation("healthz", "Serving", {"200": _json(anything, "Yes")}, {}, security=public)},
        "/readyz": {
            "get": _operation(
                "readyz",
                "Able to work",
                {"200": _json(anything, "Yes"), "503": _json(anything, "No")},
                {},
                security=public,
            ),
        },
        "/openapi.json": {"get": _operation("openapi", "This", {"200": _json(anything, "This")}, {}, security=public)},
    }


def _operation(name: str, text: str, good: dict[str, Any], bad: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"operationId": name, "summary": text, "responses": good | bad, **more}
