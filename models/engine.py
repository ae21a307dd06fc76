"""Engines: how this process reaches Postgres.

Every connection of ours keeps the lock rules of DESIGN section 3: waits for a lock end after 2 s, an idle
transaction after 5 s, and a dead peer is noticed within 12 s on both ends.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from models.settings import Settings
from models.tables import SCHEMA

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine

#: Seconds to establish a connection.
CONNECT_TIMEOUT_S = 5
#: Server settings of every connection of ours; times in milliseconds unless named otherwise.
SERVER_SETTINGS = {
    "application_name": "callboard",
    "timezone": "UTC",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "5000",
    "tcp_keepalives_idle": "4",  # s
    "tcp_keepalives_interval": "2",  # s
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "12000",
}


def connect_args(settings: Settings, **server_settings: str) -> dict[str, Any]:
    """psycopg's keyword arguments for one connection."""
    merged = {**SERVER_SETTINGS, **server_settings}
    if "host=/" in settings.database_url or urlsplit(settings.database_url).hostname is None:
        # A Unix socket knows no TCP; Postgres would log a complaint per connection.
        merged = {k: v for k, v in merged.items() if not k.startswith("tcp_")}
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in merged.items()),
        "keepalives_idle": 4,
        "keepalives_interval": 2,
        "keepalives_count": 4,
        "tcp_user_timeout": 12_000,
        "prepare_threshold": 1,
    }


def sqlalchemy_url(settings: Settings) -> str:
    """DATABASE_URL with the driver named."""
    return "postgresql+psycopg://" + settings.database_url.removeprefix("postgresql://")


def translation(settings: Settings) -> dict[str, str]:
    """Placeholder schema → configured schema, for ``schema_translate_map``."""
    return {SCHEMA: settings.db_schema}


def _pool(pool_size: int) -> dict[str, Any]:
    if pool_size == 0:
        return {"poolclass": NullPool}
    return {"pool_size": pool_size, "max_overflow": pool_size * 4, "pool_timeout": 10, "pool_use_lifo": True}


def make_engine(settings: Settings, *, pool_size: int = 5, **server_settings: str) -> Engine:
    """A synchronous engine in autocommit: one statement is one transaction unless :func:`transaction` says so.

    Args:
      pool_size: connections kept open; 0: none, each is closed when it is given back.
      server_settings: Postgres settings of these connections, beyond :data:`SERVER_SETTINGS`.
    """
    engine = create_engine(
        sqlalchemy_url(settings),
        isolation_level="AUTOCOMMIT",
        connect_args=connect_args(settings, **server_settings),
        **_pool(pool_size),
    )
    return engine.execution_options(schema_translate_map=translation(settings))


def make_async_engine(settings: Settings, *, pool_size: int = 5, **server_settings: str) -> AsyncEngine:
    """The same for asyncio."""
    from sqlalchemy.ext.asyncio import create_async_engine  # senders never need it, and it is slow to import

    engine = create_async_engine(
        sqlalchemy_url(settings),
        isolation_level="AUTOCOMMIT",
        connect_args=connect_args(settings, **server_settings),
        **_pool(pool_size),
    )
    return engine.execution_options(schema_translate_map=translation(settings))


def transaction(engine: Engine) -> Engine:
    """The same engine and pool, with real transactions (``with transaction(engine).begin() as connection``)."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def whereabouts(connection: Connection) -> str:
    """Which server and database this is, for a log line: host:port/name, never a password."""
    info = _driver(connection).info
    return f"{info.host}:{info.port}/{info.dbname}"


def server_version(connection: Connection) -> str:
    """The version that Postgres reports of itself, such as ``18.1``."""
    return str(_driver(connection).info.parameter_status("server_version") or "").partition(" ")[0]


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def is_psycopg(connection: object) -> bool:
    """Whether this is a bare, synchronous psycopg connection."""
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(connection, psycopg.Connection)


@cache
def psycopg_dialect() -> Dialect:
    """Renders statements for callers who hand us a bare psycopg connection."""
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    return PGDialect_psycopg()  # type: ignore[no-untyped-call]


__all__ = [
    "SERVER_SETTINGS",
    "Connection",
    "connect_args",
    "is_psycopg",
    "make_async_engine",
    "make_engine",
    "psycopg_dialect",
    "server_version",
    "sqlalchemy_url",
    "transaction",
    "translation",
    "whereabouts",
]
