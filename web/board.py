"""The board: a tenant's jobs as pages that read well without JavaScript and move with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from actors.runtime.job_type import job_types
from models.board import board_page
from models.queries import COUNTED_JOBS, counts
from models.state import LIVE, Status
from web.auth import Caller
from web.docs_page import get_docs
from web.job_list import cursor_of, job_id_of
from web.job_page import job_page, post_cancel, post_retry, to_job_page
from web.pages import PageFiles, message_page, page, render
from web.send_page import get_send, post_send
from web.services import services

#: Jobs on one page.
PAGE_JOBS: Final = 50
#: What the empty row, which ``board.js`` fills, is rendered from.
_BLANK: Final = {
    "id": "",
    "actor": "",
    "status": "",
    "attempts": 0,
    "max_attempts": None,
    "progress": None,
    "error": None,
    "version": 0,
    "created_at": None,
}


@dataclass(frozen=True)
class View:
    """What the address asks the board to show."""

    status: Status | None = None
    type: str | None = None
    before: UUID | None = None

    def href(self, **change: Any) -> str:
        """The board's address with this view changed."""
        wanted = {"status": self.status, "type": self.type, **change}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return f"/?{query}" if query else "/"


@dataclass(frozen=True)
class Link:
    """One filter."""

    href: str
    label: str
    current: bool
    status: str | None = None
    count: str | None = None


@dataclass(frozen=True)
class Pages:
    """Where this page stands among its neighbours."""

    first: bool
    newest: str
    next: str | None
    limit: int = PAGE_JOBS


def read_view(request: Request) -> View:
    """The view in the address. Raises ValueError."""
    asked = request.query_params
    status, job_type, after = asked.get("status"), asked.get("type"), asked.get("after")
    if job_type is not None and "\0" in job_type:
        raise ValueError("no type has a NUL in its name")
    return View(Status(status) if status else None, job_type or None, job_id_of(after) if after else None)


@page
async def get_board(request: Request, caller: Caller) -> Response:
    """``GET /``: the tenant's jobs, newest first."""
    try:
        view = read_view(request)
    except ValueError:
        text = "This address asks for a status or a page that does not exist."
        return message_page(request, 404, "Not on the board", text, viewer=caller)
    statement = board_page(status=view.status, job_type=view.type, before=view.before, limit=PAGE_JOBS + 1)
    mine = {"tenant": caller.tenant_id}
    async with services(request).engine.connect() as connection:
        rows = [row._mapping for row in await connection.execute(statement, mine)]
        numbers = {row.status: row.number for row in await connection.execute(counts(), mine)}
    jobs, more = rows[:PAGE_JOBS], len(rows) > PAGE_JOBS
    names = list(job_types())
    return render(
        request,
        "board.html",
        {
            "viewer": caller,
            "jobs": jobs,
            "blank": _BLANK,
            "filter": view,
            "job_types": names,
            "status_links": _status_links(view, None if view.type else numbers),
            "type_links": _type_links(view, names),
            "page": Pages(
                first=view.before is None,
                newest=view.href(),
                next=view.href(after=cursor_of(jobs[-1]["id"])) if more else None,
            ),
            "curl": _curl(request, names),
        },
    )


def _status_links(view: View, numbers: dict[str, int] | None) -> list[Link]:
    """All and each status; the counts are of every type, so a board of one type shows none."""
    links = [Link(view.href(status=None), "All", view.status is None)]
    for status in Status:
        count = None
        if numbers is not None:
            number = numbers.get(status, 0)
            # Finished jobs are counted among the newest only: once those are many, there may be more.
            looked_at = number if status in LIVE else sum(numbers.values())
            count = f"{number:,}" + ("+" if number and looked_at >= COUNTED_JOBS else "")
        links.append(Link(view.href(status=status), status.capitalize(), view.status is status, status, count))
    return links


def _type_links(view: View, names: list[str]) -> list[Link]:
    others = [] if view.type is None or view.type in names else [view.type]
    links = [Link(view.href(type=None), "all types", view.type is None)]
    return links + [Link(view.href(type=name), name, name == view.type) for name in [*names, *others]]


def _curl(request: Request, names: list[str]) -> str:
    """A line that sends a first job."""
    body = '{"type": "sleep", "payload": {"delayMs": 5000}}'
    if "sleep" not in names and names:
        body = f'{{"type": "{names[0]}", "payload": {{}}}}'
    return (
        f"curl {request.base_url}jobs \\\n  -H 'Authorization: Bearer YOUR_API_KEY' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )


routes: list[BaseRoute] = [
    Route("/", get_board),
    Route("/send", get_send, methods=["GET"]),
    Route("/send", post_send, methods=["POST"]),
    Route("/docs", get_docs),
    Route("/board/jobs/{job_id}", job_page),
    Route("/board/jobs/{job_id}/cancel", post_cancel, methods=["POST"]),
    Route("/board/jobs/{job_id}/retry", post_retry, methods=["POST"]),
    Route("/board/jobs/{job_id}/cancel", to_job_page),
    Route("/board/jobs/{job_id}/retry", to_job_page),
    Mount("/static", PageFiles()),
]
