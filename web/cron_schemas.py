"""What ``/openapi.json`` says of ``/crons``."""

from __future__ import annotations

from typing import Any, Final

from models.crons import SHOWN_TICKS
from models.schedules import MISSED, OVERLAP
from models.state import Status

_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_TIME: Final = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}


def _object(properties: dict[str, Any], kind: Any = "object") -> dict[str, Any]:
    return {"type": kind, "required": list(properties), "properties": properties}


_RUN: Final = _object(
    {
        "tick_at": {**_TIME, "description": "The due minute; of a run by hand, when it was asked for."},
        "outcome": {
            "enum": ["sent", "waiting", "skipped", "refused"],
            "description": "waiting: behind a live run. skipped, refused: see `reason`.",
        },
        "reason": _TEXT_OR_NULL,
        "by_hand": {"type": "boolean"},
        "job": {
            **_object(
                {
                    "id": {"type": "string", "format": "uuid"},
                    "status": {"enum": [*map(str, Status), None], "description": "Null: past its retention."},
                    "error": _TEXT_OR_NULL,
                },
                ["object", "null"],
            ),
        },
    }
)

SCHEMAS: Final[dict[str, Any]] = {
    "Cron": _object(
        {
            "name": _TEXT,
            "type": {**_TEXT, "description": "The actor's name."},
            "expression": {**_TEXT, "description": "Five cron fields, or @daily and the like."},
            "tz": {**_TEXT, "description": "An IANA time zone."},
            "payload": {"type": "object"},
            "missed": {"enum": list(MISSED), "description": "What becomes of ticks that nobody made in time."},
            "overlap": {"enum": list(OVERLAP), "description": "What becomes of a tick while a run before it is live."},
            "state": {
                "enum": ["active", "paused", "stale", "retired"],
                "description": "stale: overdue, nobody makes its ticks. retired: no code declares it any more.",
            },
            "paused_at": _TIME_OR_NULL,
            "retired_at": _TIME_OR_NULL,
            "last_tick_at": {**_TIME, "description": "Every tick up to this is decided."},
            "last": {"type": "array", "items": _RUN, "maxItems": SHOWN_TICKS, "description": "Newest first."},
            "next": {"type": "array", "items": _TIME, "description": "The coming runs; none while it is paused."},
            "links": _object(dict.fromkeys(("run", "pause", "resume"), _TEXT)),
        }
    ),
    "Crons": _object({"crons": {"type": "array", "items": {"$ref": "#/components/schemas/Cron"}}}),
}


def _answer(name: str, text: str, **more: Any) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": text, "content": {"application/json": {"schema": schema}}, **more}


def _problems(**texts: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): {"description": text, "content": content} for status, text in texts.items()}


_NAME: Final = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": _TEXT,
    "description": "The schedule's name.",
}
_CHANGES: Final = _problems(
    s403="A session without its CSRF token", s404="No such schedule", s409="The state forbids it"
)


def _change(operation: str, summary: str, good: dict[str, Any], bad: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": [_NAME],
        "post": {"operationId": operation, "summary": summary, "responses": good | bad},
    }


PATHS: Final[dict[str, Any]] = {
    "/crons": {
        "get": {
            "operationId": "listCrons",
            "summary": "The tenant's schedules, with their last and next runs",
            "responses": {"200": _answer("Crons", "All"), **_problems()},
        }
    },
    "/crons/{name}/run": _change(
        "runCron",
        "Run a schedule once, now",
        {"202": _answer("Cron", "Sent", headers={"Location": {"description": "The job", "schema": _TEXT}})},
        _CHANGES | _problems(s400="Arguments that cannot be kept", s422="Arguments that the job type refuses"),
    ),
    "/crons/{name}/pause": _change("pauseCron", "Make no more ticks", {"200": _answer("Cron", "Paused")}, _CHANGES),
    "/crons/{name}/resume": _change(
        "resumeCron", "Make ticks again, from now on", {"200": _answer("Cron", "Active")}, _CHANGES
    ),
}
