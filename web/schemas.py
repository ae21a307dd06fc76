"""JSON Schemas of what the API answers with."""

from __future__ import annotations

from typing import Any, Final

from models.state import Status
from web.answers import COUNT, TEXT, TIME, UUID, list_of, object_of

_STATUS: Final = {"enum": [str(status) for status in Status]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


_PROGRESS: Final = {"type": ["object", "null"], "description": "{current, total, message} as the actor reported it."}
_ATTEMPT: Final = object_of(
    {
        "attempt": COUNT,
        "kind": {"enum": ["failed", "crashed", "lost", "released"]},
        "class": _or_null(TEXT),
        "message": _or_null(TEXT),
        "traceback": _or_null(TEXT),
        "worker": _or_null(TEXT),
        "started_at": _or_null(TIME),
        "ended_at": _or_null(TIME),
    },
    required=[],
)
_LINKS: Final = object_of(dict.fromkeys(("self", "result", "events", "cancel", "retry"), TEXT))
_SERVER: Final = object_of({"ok": {"type": "boolean"}, "detail": TEXT, "schema": TEXT}, ["ok"])

SCHEMAS: Final[dict[str, Any]] = {
    "Job": object_of(
        {
            "id": UUID,
            "type": {**TEXT, "description": "The actor's name."},
            "queue": TEXT,
            "status": _STATUS,
            "attempts": {**COUNT, "description": "Started executions, also those that died."},
            "max_attempts": {**_or_null(COUNT), "description": "Null: no cap."},
            "crashes": COUNT,
            "priority": {"type": "integer", "minimum": -10, "maximum": 10, "description": "Lower first."},
            "run_at": {**TIME, "description": "Not before."},
            "unique_key": _or_null(TEXT),
            "payload": {"type": "object"},
            "progress": _PROGRESS,
            "result": {"description": "What the actor returned; null until COMPLETED."},
            "result_error": {**_or_null(TEXT), "description": "Why the result could not be kept."},
            "error": {**_or_null(TEXT), "description": "The latest error, one line."},
            "errors": {"type": "array", "items": _ATTEMPT, "description": "Attempts that did not succeed."},
            "log": {"type": "array", "description": "The latest lines that the actor logged."},
            "version": {**COUNT, "description": "Rises by one with every change."},
            "created_at": TIME,
            "started_at": _or_null(TIME),
            "finished_at": _or_null(TIME),
            "cancel_requested_at": _or_null(TIME),
            "updated_at": TIME,
            "links": _LINKS,
            "duplicate": {"type": "boolean", "description": "A send met this older job with the same unique key."},
        }
    ),
    "JobPage": object_of({"jobs": list_of("Job"), "next": _or_null(TEXT)}),
    "SentJobs": object_of({"jobs": list_of("Job")}),
    "JobEvent": object_of(
        {
            "id": UUID,
            "type": TEXT,
            "status": _STATUS,
            "attempts": COUNT,
            "progress": _PROGRESS,
            "error": _or_null(TEXT),
            "version": COUNT,
            "at": TIME,
        }
    ),
    "Result": object_of({"status": {"const": "COMPLETED"}, "result": {}, "result_error": TEXT}, ["status", "result"]),
    "Ticket": object_of({"url": {"type": "string", "format": "uri"}, "expires_at": TIME}),
    "JobTypes": object_of(
        {
            "job_types": {
                "type": "array",
                "items": object_of(
                    {"type": TEXT, "queue": TEXT, "description": TEXT, "payload_schema": {"type": "object"}}
                ),
            }
        }
    ),
    "Queues": object_of(
        {
            "queues": {
                "type": "array",
                "items": object_of(
                    {
                        "name": TEXT,
                        "waiting": {**COUNT, "description": "PENDING and due."},
                        "active": {**COUNT, "description": "RUNNING."},
                        "delayed": {**COUNT, "description": "PENDING, scheduled or until the next attempt."},
                        "completed": {**COUNT, "description": "COMPLETED and not deleted yet."},
                        "failed": {**COUNT, "description": "FAILED and not deleted yet."},
                    }
                ),
            }
        }
    ),
    "Health": object_of({"status": {"const": "ok"}}),
    "Readiness": object_of(
        {
            "status": {"enum": ["ready", "degraded", "not ready"], "description": "Degraded: without Redis."},
            "postgres": _SERVER,
            "redis": _SERVER,
        }
    ),
    "Problem": object_of(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": TEXT,
            "errors": {
                "type": "array",
                "items": object_of({"pointer": TEXT, "parameter": TEXT, "detail": TEXT}, ["detail"]),
                "description": "One per fault: a JSON pointer into the body, or the name of a parameter.",
            },
        },
        ["type", "title", "status", "detail"],
        description="RFC 9457.",
    ),
}
_JOB: Final = SCHEMAS["Job"]
_JOB["required"] = [name for name in _JOB["required"] if name != "duplicate"]
