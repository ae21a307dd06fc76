"""What one process holds open: settings, engine, Redis clients; made at first use, made anew after a fork."""

from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.engine import make_engine
from models.settings import Settings, get_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Seconds for one command that nobody waits for long (the bell): connect and reply.
BELL_TIMEOUT_S = 0.25
#: Seconds for any other command of ours that does not block.
COMMAND_TIMEOUT_S = 2.0
#: Seconds that a consumer's blocking pop may take on the server.
BLOCK_S = 1.0


def redis_client(settings: Settings, *, timeout_s: float, connect_timeout_s: float | None = None) -> Redis:
    """A client that never repeats a command by itself: what is repeated is decided where it is sent."""
    return Redis.from_url(
        settings.redis_url_with_db,
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_timeout_s or timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


_all: WeakSet[Resources] = WeakSet()


def _forked() -> None:
    for resources in list(_all):
        resources.after_fork()


os.register_at_fork(after_in_child=_forked)


class Resources:
    """Lazy, fork-safe connections of one broker; :meth:`close` gives everything back and allows a fresh start."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._held: dict[str, Any] = {}
        self._parents: list[Any] = []
        _all.add(self)

    def after_fork(self) -> None:
        """In a forked child: what the parent holds open is the parent's, and so is its lock, whoever held it."""
        self._lock = RLock()
        # Kept unused: were it collected, it would say goodbye on the parent's connections.
        self._parents.append(self._held)
        self._held = {name: held for name, held in self._held.items() if name == "settings"}

    def _get(self, name: str) -> Any:
        with self._lock:
            if name not in self._held:
                self._held[name] = getattr(self, f"_make_{name}")()
            return self._held[name]

    def _make_settings(self) -> Settings:
        return get_settings()

    def _make_engine(self) -> Engine:
        return make_engine(self.settings, pool_size=max(self.settings.threads, 4))

    def _make_redis(self) -> Redis:
        return redis_client(self.settings, timeout_s=COMMAND_TIMEOUT_S)

    def _make_bell_redis(self) -> Redis:
        return redis_client(self.settings, timeout_s=BELL_TIMEOUT_S)

    @property
    def settings(self) -> Settings:
        """The process's settings. Raises SettingsError naming what is missing."""
        settings: Settings = self._get("settings")
        return settings

    @property
    def engine(self) -> Engine:
        """Postgres, in autocommit."""
        engine: Engine = self._get("engine")
        return engine

    @property
    def redis(self) -> Redis:
        """Redis, for commands that do not block; 2 s each."""
        client: Redis = self._get("redis")
        return client

    @property
    def bell_redis(self) -> Redis:
        """Redis for the bell: 250 ms each."""
        client: Redis = self._get("bell_redis")
        return client

    def close(self) -> None:
        """Close every connection; the next use opens new ones with the settings of then."""
        with self._lock:
            held, self._held = self._held, {}
            for name in ("redis", "bell_redis"):
                if name in held:
                    held[name].close()
            if "engine" in held:
                held["engine"].dispose()
