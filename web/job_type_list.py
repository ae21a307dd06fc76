"""``GET /job-types``: what may be sent, with the schema of each payload."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import JobType, job_types
from web.auth import require


def description(kind: JobType) -> str:
    """The actor's own words: its docstring's first paragraph."""
    return (kind.actor.fn.__doc__ or "").strip().partition("\n\n")[0]


async def get_job_types(request: Request) -> Response:
    """Every job type of the modules in CALLBOARD_ACTORS, by name."""
    await require(request)
    return JSONResponse(
        {
            "job_types": [
                {
                    "type": kind.name,
                    "queue": kind.actor.queue_name,
                    "description": description(kind),
                    "payload_schema": kind.schema(),
                }
                for kind in job_types().values()
            ]
        }
    )
