"""Cafés in the API: list, look at, import; and cities with what ``update-cafe-stats`` counted in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actors.runtime.feed import timestamp
from models import cafes
from models.arrays import parameters
from models.cafes import CafeStatus
from models.json_data import clean_text
from models.rows import all_rows, one_row
from web.auth import require
from web.bodies import in_turn
from web.domain import Domain
from web.domains._cafe_documents import CURSOR_PATTERN, DEFAULT_LIMIT, MAX_LIMIT, PATHS, SCHEMAS
from web.domains._cafe_import import MAX_BYTES, read_import
from web.domains._cafe_pages import PAGES
from web.problems import Fault, Problem
from web.services import services

_PARAMETERS = ("status", "city", "limit", "after")
_TIMES = ("processed_at", "created_at", "updated_at")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def cafe_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of :data:`models.cafes.CAFE_COLUMNS` as JSON data."""
    shown = {name: value for name, value in row.items() if name != "tenant_id"}
    ids = {name: str(shown[name]) if shown[name] is not None else None for name in ("id", "job_id")}
    return shown | ids | {name: timestamp(shown[name]) for name in _TIMES}


def parse_cafe_id(text: str) -> UUID:
    """The id in an address. Raises Problem 404."""
    if not _UUID.fullmatch(text):
        raise cafe_not_found(text)
    return UUID(text)


def cafe_not_found(text: str) -> Problem:
    """404: unknown, or another tenant's."""
    return Problem(404, f"There is no café {clean_text(text, 100)}.", slug="no-such-cafe")


def cursor_of(row: Mapping[str, Any]) -> str:
    """The cursor that continues after this café."""
    return f"{row['city_slug']}~{row['slug']}"


def place_of(cursor: str) -> tuple[str, str]:
    """City and slug after which a cursor continues. Raises ValueError."""
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise ValueError("not a cursor")
    city, _, slug = cursor.partition("~")
    return city, slug


def read_filter(asked: QueryParams) -> dict[str, Any]:
    """Arguments of :func:`models.cafes.page_of_cafes`. Raises Problem 400."""
    faults = [Fault(name[:100], "is not a parameter here", "parameter") for name in asked if name not in _PARAMETERS]
    faults += [
        Fault(name, "must stand there once", "parameter") for name in _PARAMETERS if len(asked.getlist(name)) > 1
    ]
    wanted: dict[str, Any] = {"city": asked.get("city"), "limit": DEFAULT_LIMIT}
    if wanted["city"] is not None and "\0" in wanted["city"]:
        faults.append(Fault("city", "contains a NUL", "parameter"))
    if (status := asked.get("status")) is not None:
        if status in CafeStatus.__members__:
            wanted["status"] = CafeStatus[status]
        else:
            faults.append(Fault("status", f"must be one of {', '.join(CafeStatus)}", "parameter"))
    if (limit := asked.get("limit")) is not None:
        if limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= MAX_LIMIT:
            wanted["limit"] = int(limit)
        else:
            faults.append(Fault("limit", f"must be from 1 to {MAX_LIMIT}", "parameter"))
    if (after := asked.get("after")) is not None:
        try:
            wanted["after"] = place_of(after)
        except ValueError:
            faults.append(Fault("after", "is not a cursor that a page named as its next", "parameter"))
    if faults:
        raise Problem(400, f"{faults[0].where}: {faults[0].detail}.", slug="bad-parameter", faults=faults)
    return wanted


async def get_cafes(request: Request) -> Response:
    """``GET /cafes``: ``{cafes, next}``."""
    caller = await require(request)
    wanted = read_filter(request.query_params)
    limit = wanted.pop("limit")
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        statement = cafes.page_of_cafes(**wanted, limit=limit + 1)
        rows = all_rows(await connection.execute(statement, {"tenant": caller.tenant_id}))
    following = cursor_of(rows[limit - 1]) if len(rows) > limit else None
    return JSONResponse({"cafes": [cafe_json(row) for row in rows[:limit]], "next": following})


async def get_cafe(request: Request) -> Response:
    """``GET /cafes/{id}``."""
    caller = await require(request)
    text = request.path_params["cafe_id"]
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        asked = {"tenant": caller.tenant_id, "cafe_id": parse_cafe_id(text)}
        row = one_row(await connection.execute(cafes.one_cafe(), asked))
    if row is None:
        raise cafe_not_found(text)
    return JSONResponse(cafe_json(row))


async def post_import(request: Request) -> Response:
    """``POST /cafes/import``: 200 ``{created, updated}``."""
    caller = await require(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    towns, rows = await in_turn(read_import, media_type, await request.body())
    mine = {"tenant": caller.tenant_id}
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        columns = parameters("city", **cafes.as_lists(towns, ("slug", "name", "country_code")))
        await connection.execute(cafes.import_cities(), {**mine, **columns})
        columns = parameters("cafe", **cafes.as_lists(rows, tuple(rows[0])))
        made = (await connection.execute(cafes.import_cafes(), {**mine, **columns})).all()
    created = sum(row.is_new for row in made)
    return JSONResponse({"created": created, "updated": len(made) - created})


async def get_cities(request: Request) -> Response:
    """``GET /cities``."""
    caller = await require(request)
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        rows = all_rows(await connection.execute(cafes.all_cities(), {"tenant": caller.tenant_id}))
    shown = ("slug", "name", "country_code", "cafes_count", "status")
    return JSONResponse(
        {"cities": [{**{n: row[n] for n in shown}, "counted_at": timestamp(row["counted_at"])} for row in rows]}
    )


class Import(HTTPEndpoint):
    """``/cafes/import``; an endpoint, so that other methods do not pass it by and look for a café named import."""

    post = staticmethod(post_import)


DOMAIN = Domain(
    routes=[
        Route("/cafes", get_cafes),
        Route("/cafes/import", Import),
        Route("/cafes/{cafe_id}", get_cafe),
        Route("/cities", get_cities),
        *PAGES,
    ],
    paths=PATHS,
    schemas=SCHEMAS,
    body_limits={"/cafes/import": MAX_BYTES},
    pages=[("/board/cafes", "Cafés")],
)
