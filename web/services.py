"""What the web process holds open, made when it starts and reachable from every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection

from models.settings import Settings

if TYPE_CHECKING:
    from web.auth import Keyring
    from web.hub import Hub
    from web.openings import Openings
    from web.tickets import Tickets


@dataclass(frozen=True, slots=True)
class Services:
    """One per application, in ``app.state.services`` while its lifespan lasts."""

    settings: Settings
    engine: AsyncEngine
    redis: Redis
    keyring: Keyring
    hub: Hub
    openings: Openings
    tickets: Tickets


def services(request: HTTPConnection) -> Services:
    """The services of the application that this request came to."""
    return cast("Services", request.app.state.services)
