"""What ``/openapi.json`` says of ``/crons``."""

from __future__ import annotations

from typing import Any, Final

from models.crons import SHOWN_TICKS
from models.schedules import MISSED, OVERLAP
from models.state import Status
from web.answers import (
    TEXT,
    TEXT_OR_NULL,
    TIME,
    TIME_OR_NULL,
    UUID,
    json_answer,
    list_of,
    object_of,
    operation,
    parameter,
    problems,
    ref,
)

_RUN: Final = object_of(
    {
        "tick_at": {**TIME, "description": "The due minute; of a run by hand, when it was asked for."},
        "outcome": {
            "enum": ["sent", "waiting", "skipped", "refused"],
            "description": "waiting: behind a live run. skipped, refused: see `reason`.",
        },
        "reason": TEXT_OR_NULL,
        "by_hand": {"type": "boolean"},
        "job": {
            **object_of(
                {
                    "id": UUID,
                    "status": {"enum": [*map(str, Status), None], "description": "Null: past its retention."},
                    "error": TEXT_OR_NULL,
                },
            ),
            "type": ["object", "null"],
        },
    }
)

SCHEMAS: Final[dict[str, Any]] = {
    "Cron": object_of(
        {
            "name": TEXT,
            "type": {**TEXT, "description": "The actor's name."},
            "expression": {**TEXT, "description": "Five cron fields, or @daily and the like."},
            "tz": {**TEXT, "description": "An IANA time zone."},
            "payload": {"type": "object"},
            "missed": {"enum": list(MISSED), "description": "What becomes of ticks that nobody made in time."},
            "overlap": {"enum": list(OVERLAP), "description": "What becomes of a tick while a run before it is live."},
            "state": {
                "enum": ["active", "paused", "stale", "retired"],
                "description": "stale: overdue, nobody makes its ticks. retired: no code declares it any more.",
            },
            "paused_at": TIME_OR_NULL,
            "retired_at": TIME_OR_NULL,
            "last_tick_at": {**TIME, "description": "Every tick up to this is decided."},
            "last": {"type": "array", "items": _RUN, "maxItems": SHOWN_TICKS, "description": "Newest first."},
            "next": {"type": "array", "items": TIME, "description": "The coming runs; none while it is paused."},
            "links": object_of(dict.fromkeys(("run", "pause", "resume"), TEXT)),
        }
    ),
    "Crons": object_of({"crons": list_of("Cron")}),
}


_NAME: Final = parameter("name", "path", TEXT, "The schedule's name.")
_CHANGES: Final = problems(
    s403="A session without its CSRF token", s404="No such schedule", s409="The state forbids it"
)


def _change(name: str, text: str, good: dict[str, Any], bad: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": [_NAME], "post": operation(name, text, good, bad, tag="Schedules")}


PATHS: Final[dict[str, Any]] = {
    "/crons": {
        "get": operation(
            "listCrons",
            "The tenant's schedules, with their last and next runs",
            {"200": json_answer(ref("Crons"), "All")},
            problems(),
            tag="Schedules",
        )
    },
    "/crons/{name}/run": _change(
        "runCron",
        "Run a schedule once, now",
        {"202": json_answer(ref("Cron"), "Sent", Location="The job")},
        _CHANGES | problems(s400="Arguments that cannot be kept", s422="Arguments that the job type refuses"),
    ),
    "/crons/{name}/pause": _change(
        "pauseCron", "Make no more ticks", {"200": json_answer(ref("Cron"), "Paused")}, _CHANGES
    ),
    "/crons/{name}/resume": _change(
        "resumeCron", "Make ticks again, from now on", {"200": json_answer(ref("Cron"), "Active")}, _CHANGES
    ),
}
