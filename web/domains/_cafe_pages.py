"""The board's page of cafés: what is known of each, what its job is doing, and what a person decides."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from actors.cafes import judge_cafe, process_message
from actors.runtime.sending import asend_many
from models import cafes
from models.cafes import CafeStatus
from models.rows import all_rows, one_row
from web.auth import Caller
from web.pages import page, render
from web.problems import Problem
from web.services import services

#: Cafés on one page.
PAGE_CAFES: Final = 300
#: Cafés that one press of the button hands out.
AT_ONCE: Final = 500
PATH: Final = "/board/cafes"
#: A person's decisions: from which statuses, and to which.
DECISIONS: Final[dict[str, tuple[tuple[CafeStatus, ...], CafeStatus]]] = {
    "publish": ((CafeStatus.PROCESSED,), CafeStatus.PUBLISHED),
    "withdraw": ((CafeStatus.PUBLISHED,), CafeStatus.PROCESSED),
    "discard": ((CafeStatus.NEW, CafeStatus.PROCESSED, CafeStatus.ERROR), CafeStatus.DISCARDED),
}


@page
async def get_page(request: Request, caller: Caller) -> Response:
    """``GET /board/cafes``."""
    asked = request.query_params
    status = CafeStatus.__members__.get(asked.get("status", ""))
    mine = {"tenant": caller.tenant_id}
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        towns = all_rows(await connection.execute(cafes.all_cities(), mine))
        city = next((town["slug"] for town in towns if town["slug"] == asked.get("city")), None)
        statement = cafes.page_of_cafes(status=status, city=city, limit=PAGE_CAFES)
        rows = all_rows(await connection.execute(statement, mine))
        numbers = {row.status: row.number for row in await connection.execute(cafes.numbers_by_status(), mine)}
        slots = {"slots": [cafes.slot_of(str(row["id"])) for row in rows]}
        live = {row.unique_slot: row for row in await connection.execute(cafes.live_jobs_of(), mine | slots)}
    return render(
        request,
        "cafes.html",
        {
            "viewer": caller,
            "cafes": [{**row, "job": live.get(cafes.slot_of(str(row["id"])))} for row in rows],
            "cities": towns,
            "numbers": [(str(each), numbers.get(each, 0)) for each in CafeStatus if numbers.get(each)],
            "total": sum(numbers.values()),
            "status": status,
            "city": city,
            "decisions": {name: [str(each) for each in before] for name, (before, _) in DECISIONS.items()},
            "sent": asked.get("sent") if (asked.get("sent") or "").isdigit() else None,
            "href": lambda **wanted: _href(status=wanted.get("status", status), city=wanted.get("city", city)),
        },
    )


def _href(**wanted: Any) -> str:
    query = urlencode({name: value for name, value in wanted.items() if value})
    return f"{PATH}?{query}" if query else PATH


@page
async def post_process(request: Request, caller: Caller) -> Response:
    """``POST /board/cafes/process``: send the job of one café, or of all that are due."""
    form = await request.form()
    chosen = form.get("cafe")
    if isinstance(chosen, str) and chosen:
        ids = [await _find(request, caller, chosen)]
    else:
        async with services(request).tenant_connection(caller.tenant_id) as connection:
            asked = {"tenant": caller.tenant_id, "number": AT_ONCE}
            ids = [row.id for row in await connection.execute(cafes.due_cafes(tenant=True), asked)]
    sent = await asend_many([process_message(cafe_id, tenant_id=caller.tenant_id) for cafe_id in ids])
    new = sum(not message.options.get("duplicate") for message in sent)
    back = {name: value for name in ("status", "city") if isinstance(value := form.get(name), str)}
    return RedirectResponse(_href(**back, sent=str(new)), 303)


@page
async def post_decide(request: Request, caller: Caller) -> Response:
    """``POST /board/cafes/{cafe_id}/{decision}``: and its city is counted again, by a job of the same transaction."""
    decision = DECISIONS.get(request.path_params["decision"])
    if decision is None:
        raise Problem(404, "There is no such decision.")
    before, after = decision
    cafe_id = await _find(request, caller, request.path_params["cafe_id"])
    done = await asyncio.to_thread(
        judge_cafe,
        cafe_id,
        after,
        before,
        tenant_id=caller.tenant_id,
        why="Discarded on the board" if after is CafeStatus.DISCARDED else None,
    )
    if not done:
        raise Problem(409, "The café's status has changed meanwhile: it forbids this.", slug="cafe-state")
    return RedirectResponse(PATH, 303)


async def _find(request: Request, caller: Caller, text: str) -> UUID:
    """The id of the caller's café. Raises Problem 404."""
    try:
        cafe_id = UUID(text)
    except ValueError:
        raise Problem(404, "There is no such café.", slug="no-such-cafe") from None
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        asked = {"tenant": caller.tenant_id, "cafe_id": cafe_id}
        if one_row(await connection.execute(cafes.one_cafe(), asked)) is None:
            raise Problem(404, "There is no such café.", slug="no-such-cafe")
    return cafe_id


PAGES: Final[list[BaseRoute]] = [
    Route(PATH, get_page, methods=["GET"]),
    Route(f"{PATH}/process", post_process, methods=["POST"]),
    Route(f"{PATH}/{{cafe_id}}/{{decision}}", post_decide, methods=["POST"]),
]
