"""What the web process holds open, made when it starts and reachable from every request."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import HTTPConnection

from models.settings import Settings

if TYPE_CHECKING:
    from web.auth import Keyring
    from web.database import Database
    from web.hub import Hub
    from web.openings import Openings
    from web.tickets import Tickets


@dataclass(frozen=True, slots=True)
class Services:
    """One per application, in ``app.state.services`` while its lifespan lasts."""

    settings: Settings
    database: Database
    redis: Redis
    keyring: Keyring
    hub: Hub
    openings: Openings
    tickets: Tickets

    def tenant_connection(self, tenant_id: str) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction that sees this tenant's rows and no other's; commits when its block ends well."""
        return self.database.tenant(tenant_id)


def services(request: HTTPConnection) -> Services:
    """The services of the application that this request came to."""
    return cast("Services", request.app.state.services)
