"""``GET /jobs``: pages of jobs, newest first, by an opaque cursor."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.newest import Place, Wanted
from models.queries import page_of_jobs
from models.rows import all_rows
from models.state import Status
from web.auth import Caller, require
from web.job_json import job_json
from web.problems import Fault, Problem
from web.services import services

#: Jobs per page, unless the request says otherwise, and at most.
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
PARAMETERS: Final = ("status", "type", "queue", "limit", "after")


class Page(NamedTuple):
    """Rows of JOB_COLUMNS and the cursor of the next page, None when this is the last."""

    rows: Sequence[Mapping[str, Any]]
    next: str | None


def cursor_of(row: Mapping[str, Any]) -> str:
    """The cursor that continues after this job (a row with ``created_at`` and ``id``)."""
    microseconds = (row["created_at"] - _EPOCH) // timedelta(microseconds=1)
    return urlsafe_b64encode(microseconds.to_bytes(8, signed=True) + row["id"].bytes).decode()


def place_of(cursor: str) -> Place:
    """The place after which a cursor continues. Raises ValueError."""
    raw = urlsafe_b64decode(cursor.encode("ascii"))
    if len(raw) != 24 or urlsafe_b64encode(raw).decode() != cursor:
        raise ValueError("not a cursor")
    try:
        created_at = _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], signed=True))
    except OverflowError:
        raise ValueError("not a cursor") from None
    return Place(created_at, UUID(bytes=raw[8:]))


def read_filter(parameters: QueryParams) -> Wanted:
    """The filter in an address; ``status`` may stand there several times. Raises Problem 400."""
    faults = [
        Fault(name[:100], f"is not a parameter here; there are {', '.join(PARAMETERS)}", "parameter")
        for name in parameters
        if name not in PARAMETERS
    ]
    faults += [
        Fault(name, "must stand there once", "parameter")
        for name in PARAMETERS[1:]
        if len(parameters.getlist(name)) > 1
    ]
    statuses = []
    for name in parameters.getlist("status"):
        if name in Status.__members__:
            statuses.append(Status[name])
        else:
            faults.append(Fault("status", f"must be one of {', '.join(Status)}", "parameter"))
    limit, before = DEFAULT_LIMIT, None
    if (text := parameters.get("limit")) is not None:
        if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT:
            limit = int(text)
        else:
            faults.append(Fault("limit", f"must be from 1 to {MAX_LIMIT}", "parameter"))
    if (text := parameters.get("after")) is not None:
        try:
            before = place_of(text)
        except ValueError:
            faults.append(Fault("after", "is not a cursor that a page named as its next", "parameter"))
    for name in ("type", "queue"):
        if "\0" in parameters.get(name, ""):
            faults.append(Fault(name, "contains a NUL", "parameter"))
    if faults:
        detail = f"{faults[0].where}: {faults[0].detail}."
        raise Problem(400, detail, slug="bad-parameter", faults=faults)
    return Wanted(tuple(statuses), parameters.get("type"), parameters.get("queue"), before, limit)


async def find_page(request: Request, caller: Caller, wanted: Wanted) -> Page:
    """One page of the caller's jobs."""
    values = wanted._replace(limit=wanted.limit + 1).values(caller.tenant_id)
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        rows = all_rows(await connection.execute(page_of_jobs(wanted.shape), values))
    kept = rows[: wanted.limit]
    more = bool(rows) and rows[0]["found"] > len(kept)
    return Page(kept, cursor_of(kept[-1]) if more else None)


async def get_jobs(request: Request) -> Response:
    """``GET /jobs``: ``{jobs, next}``; a page of large jobs may hold fewer than ``limit`` and still have a next."""
    caller = await require(request)
    page = await find_page(request, caller, read_filter(request.query_params))
    headers = {"Cache-Control": "private, no-store"}
    if page.next is not None:
        kept = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
        headers["Link"] = f'<{request.url.path}?{urlencode([*kept, ("after", page.next)])}>; rel="next"'
    return JSONResponse({"jobs": [job_json(row) for row in page.rows], "next": page.next}, headers=headers)
