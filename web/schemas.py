"""JSON Schemas of what the API answers with."""

from __future__ import annotations

from typing import Any, Final

from models.state import Status


def _object(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties) if required is None else required,
        "properties": properties,
    } | more


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = {"type": "string", "format": "date-time"}
_UUID: Final = {"type": "string", "format": "uuid"}
_STATUS: Final = {"enum": [str(status) for status in Status]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


_PROGRESS: Final = {"type": ["object", "null"], "description": "{current, total, message} as the actor reported it."}
_ATTEMPT: Final = _object(
    {
        "attempt": _COUNT,
        "kind": {"enum": ["failed", "crashed", "lost", "released"]},
        "class": _or_null(_TEXT),
        "message": _or_null(_TEXT),
        "traceback": _or_null(_TEXT),
        "worker": _or_null(_TEXT),
        "started_at": _or_null(_TIME),
        "ended_at": _or_null(_TIME),
    },
    required=[],
)
_LINKS: Final = _object(dict.fromkeys(("self", "result", "events", "cancel", "retry"), _TEXT))
_SERVER: Final = _object({"ok": {"type": "boolean"}, "detail": _TEXT, "schema": _TEXT}, ["ok"])

SCHEMAS: Final[dict[str, Any]] = {
    "Job": _object(
        {
            "id": _UUID,
            "type": {**_TEXT, "description": "The actor's name."},
            "queue": _TEXT,
            "status": _STATUS,
            "attempts": {**_COUNT, "description": "Started executions, also those that died."},
            "max_attempts": {**_or_null(_COUNT), "description": "Null: no cap."},
            "crashes": _COUNT,
            "priority": {"type": "integer", "minimum": -10, "maximum": 10, "description": "Lower first."},
            "run_at": {**_TIME, "description": "Not before."},
            "unique_key": _or_null(_TEXT),
            "payload": {"type": "object"},
            "progress": _PROGRESS,
            "result": {"description": "What the actor returned; null until COMPLETED."},
            "result_error": {**_or_null(_TEXT), "description": "Why the result could not be kept."},
            "error": {**_or_null(_TEXT), "description": "The latest error, one line."},
            "errors": {"type": "array", "items": _ATTEMPT, "description": "Attempts that did not succeed."},
            "log": {"type": "array", "description": "The latest lines that the actor logged."},
            "version": {**_COUNT, "description": "Rises by one with every change."},
            "created_at": _TIME,
            "started_at": _or_null(_TIME),
            "finished_at": _or_null(_TIME),
            "cancel_requested_at": _or_null(_TIME),
            "updated_at": _TIME,
            "links": _LINKS,
            "duplicate": {"type": "boolean", "description": "A send met this older job with the same unique key."},
        }
    ),
    "JobPage": _object(
        {"jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}, "next": _or_null(_TEXT)}
    ),
    "SentJobs": _object({"jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}}),
    "JobEvent": _object(
        {
            "id": _UUID,
            "type": _TEXT,
            "status": _STATUS,
            "attempts": _COUNT,
            "progress": _PROGRESS,
            "error": _or_null(_TEXT),
            "version": _COUNT,
            "at": _TIME,
        }
    ),
    "Result": _object({"status": {"const": "COMPLETED"}, "result": {}, "result_error": _TEXT}, ["status", "result"]),
    "Ticket": _object({"url": {"type": "string", "format": "uri"}, "expires_at": _TIME}),
    "JobTypes": _object(
        {
            "job_types": {
                "type": "array",
                "items": _object(
                    {"type": _TEXT, "queue": _TEXT, "description": _TEXT, "payload_schema": {"type": "object"}}
                ),
            }
        }
    ),
    "Health": _object({"status": {"const": "ok"}}),
    "Readiness": _object(
        {
            "status": {"enum": ["ready", "degraded", "not ready"], "description": "Degraded: without Redis."},
            "postgres": _SERVER,
            "redis": _SERVER,
        }
    ),
    "Problem": _object(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": _TEXT,
            "errors": {
                "type": "array",
                "items": _object({"pointer": _TEXT, "parameter": _TEXT, "detail": _TEXT}, ["detail"]),
                "description": "One per fault: a JSON pointer into the body, or the name of a parameter.",
            },
        },
        ["type", "title", "status", "detail"],
        description="RFC 9457.",
    ),
}
_JOB: Final = SCHEMAS["Job"]
_JOB["required"] = [name for name in _JOB["required"] if name != "duplicate"]
