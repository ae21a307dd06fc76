"""The web's only way to Postgres: every transaction says first whose rows it may see (models/rls.py).

The first round trip begins the transaction, takes the web's role and names the tenants, all of it until the commit
only: a pooler in transaction mode keeps that together, and nothing is left for who has the connection next. Where
nobody has made the role, the first wall (every statement names its tenant) stands alone, and the log says so.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import psycopg
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from actors.runtime.logs import get_logger
from models import rls

log = get_logger("web")

#: Seconds until a role that was not there is looked for again.
LOOK_AGAIN_S: Final = 60.0
#: Connections found dead in a row after which one request gives up; more than the pool holds.
MOST_DEAD: Final = 50


class Database:
    """Connections in a transaction that commits when their block ends well.

    Args:
      engine: in autocommit; the tables' owner's.
      schema: that of our tables.
    """

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema
        self._role: str | None = None
        self._look_at = 0.0
        self._told = False
        self._looking = asyncio.Lock()

    def tenant(self, tenant_id: str) -> AbstractAsyncContextManager[AsyncConnection]:
        """What belongs to this tenant."""
        return self._transaction({rls.TENANT: tenant_id})

    async def each_tenant(self, tenant_ids: Iterable[str]) -> AsyncGenerator[tuple[str, AsyncConnection]]:
        """One tenant after the other, in one transaction: what is executed in a turn sees that tenant's rows."""
        async with self.nobody() as connection:
            for tenant_id in tenant_ids:
                await connection.execute(rls.see_tenant(), {"tenant": tenant_id})
                yield tenant_id, connection

    def credentials(
        self, credentials: Iterable[str], *, tenant_id: str = ""
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """What proves who somebody is: keys, sessions and links, and nothing else.

        Args:
          credentials: ids of keys; hashes of sessions and links, and ids of operators, as text.
          tenant_id: which tenant may be looked up, too.
        """
        return self._transaction({rls.CREDENTIALS: rls.array_text(credentials), rls.TENANT: tenant_id})

    def operator(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """The list of tenants; only for signed-in operators."""
        return self._transaction({rls.OPERATOR: "yes"})

    def nobody(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """What belongs to no tenant."""
        return self._transaction({})

    async def look(self) -> None:
        """Find out whether the second wall stands, and say so when it does not; a database that is away may wait."""
        try:
            async with self._engine.connect() as connection:
                await self._take_role(connection)
        except (SQLAlchemyError, OSError):
            return

    @asynccontextmanager
    async def _transaction(self, settings: dict[str, str]) -> AsyncIterator[AsyncConnection]:
        for _ in range(MOST_DEAD):
            async with self._engine.connect() as connection:
                role = await self._take_role(connection)
                if not await self._begin(connection, {**settings, **({"role": role} if role else {})}):
                    continue
                yield connection
                await self._commit(connection)
                return
        raise OperationalError("BEGIN", None, psycopg.OperationalError("connections end as soon as they are made"))

    async def _begin(self, connection: AsyncConnection, settings: dict[str, str]) -> bool:
        """One round trip; False: the connection had died while it waited in the pool, take another."""
        driver = await _driver(connection)
        names, values = list(settings), list(settings.values())
        # The role last: nobody says that it may set the others.
        calls = ", ".join(f"set_config('{name}', %s, true)" for name in names) or "NULL"
        try:
            async with driver.pipeline():
                await driver.execute("BEGIN")
                await driver.execute(f"SELECT {calls}", values)
        except psycopg.Error as error:
            if driver.closed or driver.broken:
                await connection.invalidate(error)
                return False
            raise _wrapped(error) from error
        return True

    async def _commit(self, connection: AsyncConnection) -> None:
        driver = await _driver(connection)
        try:
            await driver.commit()
        except psycopg.Error as error:
            raise _wrapped(error) from error

    async def _take_role(self, connection: AsyncConnection) -> str | None:
        """The web's role where the wall stands; asked until it does, once a minute."""
        if time.monotonic() < self._look_at:
            return self._role
        async with self._looking:
            if time.monotonic() >= self._look_at:
                wall = rls.Wall(*(await connection.execute(rls.second_wall(self._schema))).one())
                self._look_at = time.monotonic() + LOOK_AGAIN_S
                if wall.fault is None:
                    self._role, self._look_at = wall.role, math.inf
                elif wall.role is None:
                    self._look_at = 0.0  # not migrated yet: that may be over at any moment
                elif not self._told:
                    self._told = True
                    log.warning("web.no_second_wall", why=wall.fault)
        return self._role


async def _driver(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """psycopg's own connection: what SQLAlchemy has no words for."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


def _wrapped(error: psycopg.Error) -> Exception:
    """As SQLAlchemy reports it, for whoever tells outages from bugs."""
    if isinstance(error, psycopg.OperationalError):
        return OperationalError("COMMIT", None, error)
    return error
