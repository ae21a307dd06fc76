"""Whether this process serves (``/healthz``), and whether it can do its work (``/readyz``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.queries import schema_revision
from web.services import Services, services

#: Seconds that each server has to answer.
PATIENCE_S: Final = 2.0


async def get_healthz(_: Request) -> Response:
    """200 while the process answers at all; asks nobody else, so that an outage elsewhere restarts nothing here."""
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def get_readyz(request: Request) -> Response:
    """503 without Postgres or its tables. Redis is a doorbell: without it the status is ``degraded``, and 200."""
    postgres, redis = await asyncio.gather(_postgres(services(request)), _redis(services(request)))
    ready = postgres["ok"]
    status = ("ready" if redis["ok"] else "degraded") if ready else "not ready"
    return JSONResponse(
        {"status": status, "postgres": postgres, "redis": redis},
        200 if ready else 503,
        headers={"Cache-Control": "no-store"},
    )


async def _postgres(held: Services) -> dict[str, Any]:
    async def revision() -> str | None:
        async with held.database.nobody() as connection:
            # One per branch: domains have branches of their own.
            return ", ".join(sorted((await connection.execute(schema_revision())).scalars())) or None

    try:
        found = await _in_time(revision())
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        state = getattr(getattr(error, "orig", None), "sqlstate", None)
        if state in ("42P01", "3F000"):
            return {"ok": False, "detail": "the tables are missing: run ./callboard migrate (alembic upgrade head)"}
        return {"ok": False, "detail": "does not answer"}
    if found is None:
        return {"ok": False, "detail": "the tables are missing: run ./callboard migrate (alembic upgrade head)"}
    return {"ok": True, "schema": found}


async def _redis(held: Services) -> dict[str, Any]:
    try:
        await _in_time(held.redis.get("callboard:ready"))
    except (RedisError, OSError, TimeoutError):
        return {"ok": False, "detail": "does not answer; jobs are kept and run as soon as it does"}
    return {"ok": True}


async def _in_time(answer: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(answer, PATIENCE_S)
