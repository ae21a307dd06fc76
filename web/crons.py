"""``/crons``: a tenant's schedules with their last and next runs; run, pause, resume."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from actors.runtime.calendar import Calendar
from actors.runtime.cron import NAME
from actors.runtime.job_type import payload_of
from actors.runtime.sending import our_broker
from actors.runtime.ticking import ScheduleRefused
from models import crons
from models.json_data import clean_text
from models.rows import Row, all_rows
from models.schedules import clock
from web.auth import Caller, require
from web.job_json import job_path
from web.pages import iso
from web.problems import Problem
from web.services import services

#: Coming runs that are shown.
SHOWN_NEXT: Final = 5


async def find_crons(request: Request, caller: Caller, name: str | None = None) -> list[Row]:
    """The caller's schedules, or the one of this name, as rows of ``schedules`` with ``last`` (ticks and what their
    jobs have come to, newest first), ``next`` (aware datetimes), ``stale`` and ``state``."""
    mine = {"tenant": caller.tenant_id, "schedule_name": name}
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        now: datetime = (await connection.execute(clock())).scalar_one()
        rows = all_rows(await connection.execute(crons.schedules_of_tenant(), mine))
        last: dict[str, list[Row]] = defaultdict(list)
        for tick in all_rows(await connection.execute(crons.last_ticks(), mine)):
            last[tick["schedule"]].append(tick)
    return [{**row, "last": last[row["name"]], "next": _next(row, now), "state": _state(row)} for row in rows]


def _state(row: Mapping[str, Any]) -> str:
    if row["retired_at"] is not None:
        return "retired"
    if row["paused_at"] is not None:
        return "paused"
    return "stale" if row["stale"] else "active"


def _next(row: Mapping[str, Any], now: datetime) -> list[datetime]:
    if row["retired_at"] is not None or row["paused_at"] is not None:
        return []
    calendar = Calendar(row["expression"], row["tz"])
    coming = [calendar.next(now)]
    while len(coming) < SHOWN_NEXT:
        coming.append(calendar.next(coming[-1]))
    return coming


async def run_cron(request: Request, caller: Caller, name: str) -> str:
    """Run a schedule now; returns the job's id. Raises Problem 404, 409, and what sending raises."""
    try:
        message = await asyncio.to_thread(our_broker().ticker.run_now, caller.tenant_id, name)
    except LookupError:
        raise cron_not_found(name) from None
    except ScheduleRefused as refused:
        raise Problem(409, str(refused), slug="state-forbids") from None
    return message.message_id


async def pause_cron(request: Request, caller: Caller, name: str) -> None:
    """Make no more ticks of a schedule. Raises Problem 404, 409."""
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        key = {"tenant": caller.tenant_id, "schedule_name": name}
        if (await connection.execute(crons.pause(), key)).first() is None:
            raise await _forbidden(connection, key, "pause needs an active schedule")


async def resume_cron(request: Request, caller: Caller, name: str) -> None:
    """Make ticks again, from now on. Raises Problem 404, 409."""
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        key = {"tenant": caller.tenant_id, "schedule_name": name}
        now: datetime = (await connection.execute(clock())).scalar_one()
        for row in all_rows(await connection.execute(crons.schedules_of_tenant(), key)):
            upcoming = Calendar(row["expression"], row["tz"]).next(now)
            values = {**key, "last": now, "upcoming": upcoming}
            if (await connection.execute(crons.resume(), values)).first() is not None:
                return
        raise await _forbidden(connection, key, "resume needs a paused schedule")


async def _forbidden(connection: AsyncConnection, key: Mapping[str, Any], needs: str) -> Problem:
    rows = all_rows(await connection.execute(crons.schedules_of_tenant(), key))
    if not rows:
        return cron_not_found(key["schedule_name"])
    return Problem(409, f"The schedule is {_state(rows[0])}: {needs}; nothing was changed.", slug="state-forbids")


def cron_name(request: Request) -> str:
    """The name in an address. Raises Problem 404 when no schedule can have it."""
    name: str = request.path_params["name"]
    if not NAME.fullmatch(name):
        raise cron_not_found(name)
    return name


def cron_not_found(name: str) -> Problem:
    """404: unknown, or another tenant's; which of them is not told."""
    return Problem(404, f"There is no schedule {clean_text(name, 100)}.", slug="no-such-cron")


def cron_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """One schedule as the API shows it."""
    path = f"/crons/{quote(row['name'])}"
    return {
        "name": row["name"],
        "type": row["actor"],
        "expression": row["expression"],
        "tz": row["tz"],
        "payload": payload_of(row["actor"], row["args"], row["kwargs"]),
        "missed": row["missed"],
        "overlap": row["overlap"],
        "state": row["state"],
        "paused_at": iso(row["paused_at"]) if row["paused_at"] else None,
        "retired_at": iso(row["retired_at"]) if row["retired_at"] else None,
        "last_tick_at": iso(row["last_tick_at"]),
        "last": [_tick_json(tick) for tick in row["last"]],
        "next": [iso(at) for at in row["next"]],
        "links": {action: f"{path}/{action}" for action in ("run", "pause", "resume")},
    }


def _tick_json(tick: Mapping[str, Any]) -> dict[str, Any]:
    job = None
    if tick["job_id"] is not None:
        # Without a status its row is past its retention.
        job = {"id": str(tick["job_id"]), "status": tick["status"], "error": tick["error"]}
    told = {name: tick[name] for name in ("outcome", "reason", "by_hand")}
    return {"tick_at": iso(tick["tick_at"]), **told, "job": job}


async def get_crons(request: Request) -> Response:
    """``GET /crons``."""
    caller = await require(request)
    rows = await find_crons(request, caller)
    return JSONResponse({"crons": [cron_json(row) for row in rows]}, headers={"Cache-Control": "private, no-store"})


async def post_run(request: Request) -> Response:
    """``POST /crons/{name}/run``: 202, the schedule, and ``Location`` of the job."""
    caller, name = await require(request), cron_name(request)
    job_id = await run_cron(request, caller, name)
    return await _answer(request, caller, name, status=202, headers={"Location": job_path(job_id)})


async def post_pause(request: Request) -> Response:
    """``POST /crons/{name}/pause``: 200 and the schedule."""
    caller, name = await require(request), cron_name(request)
    await pause_cron(request, caller, name)
    return await _answer(request, caller, name)


async def post_resume(request: Request) -> Response:
    """``POST /crons/{name}/resume``: 200 and the schedule."""
    caller, name = await require(request), cron_name(request)
    await resume_cron(request, caller, name)
    return await _answer(request, caller, name)


async def _answer(
    request: Request, caller: Caller, name: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    rows: Sequence[Row] = await find_crons(request, caller, name)
    if not rows:
        raise cron_not_found(name)
    return JSONResponse(cron_json(rows[0]), status, headers=headers)


routes: list[BaseRoute] = [
    Route("/crons", get_crons),
    Route("/crons/{name}/run", post_run, methods=["POST"]),
    Route("/crons/{name}/pause", post_pause, methods=["POST"]),
    Route("/crons/{name}/resume", post_resume, methods=["POST"]),
]
