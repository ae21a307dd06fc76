"""The page of schedules: when each runs next, how it went, and the three things one can do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from models.rows import Row
from web.auth import Caller
from web.crons import cron_name, find_crons, pause_cron, resume_cron, run_cron
from web.pages import page, render
from web.problems import Problem, problem_of

PATH = "/board/crons"
Action = Callable[[Request, Caller, str], Awaitable[Any]]


@page
async def get_page(request: Request, caller: Caller) -> Response:
    """``GET /board/crons``."""
    return await _show(request, caller)


def _endpoint(action: Action) -> Any:
    @page
    async def post(request: Request, caller: Caller) -> Response:
        """303 back to the schedule, or the page with the reason why not."""
        name = cron_name(request)
        try:
            await action(request, caller, name)
        except Exception as error:
            problem = problem_of(error)
            if problem is None or problem.status not in (400, 409, 422):
                raise
            return await _show(request, caller, problem)
        return RedirectResponse(f"{PATH}#{quote(name)}", 303)

    return post


async def to_page(request: Request) -> Response:
    """Somebody reloaded the address of a button that was refused."""
    return RedirectResponse(PATH, 303)


async def _show(request: Request, caller: Caller, problem: Problem | None = None) -> Response:
    rows = await find_crons(request, caller)
    context = {
        "viewer": caller,
        "path": PATH,  # also where a button was refused
        "crons": [{**row, **_shown(row)} for row in rows],
        "refusal": problem.detail if problem else None,
        "refused": request.path_params.get("name") if problem else None,
    }
    return render(request, "crons.html", context, status_code=problem.status if problem else 200)


def _shown(row: Row) -> dict[str, Any]:
    """What the page says in words."""
    sent = [tick for tick in row["last"] if tick["outcome"] == "sent"]
    zone = ZoneInfo(row["tz"])
    return {
        "last_run": sent[0] if sent else None,
        # As the schedule's own clock shows them: "0 3 * * *" in Vienna is at 03:00 there.
        "last": [{**tick, "local": _words(tick["tick_at"], zone)} for tick in row["last"]],
        "local": [(at, _words(at, zone)) for at in row["next"]],
        "path": f"{PATH}/{quote(row['name'])}",
    }


def _words(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).strftime("%a %-d %b %Y, %H:%M")


routes: list[BaseRoute] = [
    Route(PATH, get_page),
    *(
        Route(f"{PATH}/{{name}}/{name}", _endpoint(action), methods=["POST"])
        for name, action in (("run", run_cron), ("pause", pause_cron), ("resume", resume_cron))
    ),
    *(Route(f"{PATH}/{{name}}/{name}", to_page) for name in ("run", "pause", "resume")),
]
