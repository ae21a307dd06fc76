"""The web application: ``uvicorn --factory web.app:create_app``."""

from __future__ import annotations

import asyncio
import importlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from actors.runtime.logs import get_logger
from models.engine import make_async_engine
from models.settings import Settings, SettingsError, get_settings
from web import batch
from web.auth import Keyring
from web.domain import domains
from web.feed import BLOCK_MS, Repair, StreamReader
from web.headers import DefaultHeaders
from web.hub import Hub
from web.limits import BodyLimit
from web.openings import Openings
from web.problems import HANDLERS
from web.routes import routes
from web.services import Services
from web.tickets import Tickets

log = get_logger("web")

#: Connections to Postgres per web process; streams hold none.
POOL_SIZE = 8
#: Seconds that the feed's tasks have to end.
FAREWELL_S = 3.0
#: Seconds for one Redis command beyond what it is asked to wait.
REDIS_TIMEOUT_S = 4.0


def create_app() -> Starlette:
    """The application, from the environment.

    Raises:
      SettingsError: naming every variable that is missing or wrong.
    """
    settings = get_settings()
    secret_key = _secret_key(settings)
    for module in ("actors", *settings.actors):
        importlib.import_module(module)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with _running(settings, secret_key) as held:
            app.state.services = held
            yield

    return Starlette(
        routes=routes(),
        middleware=[Middleware(DefaultHeaders), *_cors(settings), Middleware(BodyLimit, larger=_larger_bodies())],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


@asynccontextmanager
async def _running(settings: Settings, secret_key: str) -> AsyncIterator[Services]:
    """Everything that lives as long as the application, given back in reverse order."""
    engine = make_async_engine(settings, pool_size=POOL_SIZE)
    client = redis.asyncio.Redis.from_url(
        settings.redis_url_with_db,
        decode_responses=True,
        socket_timeout=BLOCK_MS / 1000 + REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # the reader decides what is repeated
    )
    hub = Hub()
    openings, keyring = Openings(engine, hub), Keyring(engine)
    reader = StreamReader(settings, client, hub)
    repair = Repair(engine, hub, reader, openings, keyring)
    tasks = [asyncio.create_task(reader.run()), asyncio.create_task(repair.run())]
    for task in tasks:
        task.add_done_callback(_died)
    try:
        yield Services(settings, engine, client, keyring, hub, openings, Tickets(secret_key))
    finally:
        hub.drop("closing")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=FAREWELL_S)
        await client.aclose()
        await engine.dispose()


def _larger_bodies() -> dict[str, int]:
    larger = {path: size for domain in domains() for path, size in domain.body_limits.items()}
    return {batch.PATH: batch.MAX_BODY, **larger}


def _died(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("feed.task_died", exc_info=error)


def _secret_key(settings: Settings) -> str:
    if settings.secret_key is not None:
        return settings.secret_key
    if settings.env == "production":
        raise SettingsError("CALLBOARD_SECRET_KEY is not set; the web app signs event tickets with it")
    log.warning("web.secret_key_made_up", why="CALLBOARD_SECRET_KEY is not set: tickets end with this process")
    return secrets.token_urlsafe(32)


def _cors(settings: Settings) -> list[Middleware]:
    """Pages of these origins may call the API with a key, and open streams with a ticket; never with the cookie."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=(
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-None-Match",
                "Last-Event-ID",
                "Prefer",
            ),
            expose_headers=("Location", "ETag", "Link", "Retry-After", "Idempotent-Replayed"),
            allow_credentials=False,
        )
    ]
