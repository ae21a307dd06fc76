"""The embedded servers of one clone, whichever of the two its environment leaves to us."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import psutil

from dev.console import say
from dev.environment import Environment
from dev.home import Home, read_json, write_private
from dev.postgres import Postgres, installation
from dev.servers import Server
from dev.service import Engaged
from dev.valkey import Valkey
from dev.views import views_schema

#: Seconds for the servers of a killed run to end by themselves.
_LEFTOVER_GRACE_S = 60.0


def _born(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def end_leftovers(home: Home) -> None:
    """End the servers that a killed run left, or see them off: the caller holds the folder's lock."""
    left = []
    for pid, born in read_json(home.servers_json).get("processes", []):
        try:
            process = psutil.Process(pid)
            if process.create_time() == born:
                process.send_signal(signal.SIGINT)  # a fast shutdown of Postgres, an orderly one of Valkey
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    if left:
        say("waiting for the servers that a killed run left to end")
        _, left = psutil.wait_procs(left, timeout=_LEFTOVER_GRACE_S)
        for process in left:
            process.kill()
    home.servers_json.unlink(missing_ok=True)


class Embedded:
    """Boots and stops the servers; the caller holds the folder's lock.

    Attributes:
      servers: those that run, in order of their start.
      urls: DATABASE_URL and REDIS_URL of those.
    """

    def __init__(self, home: Home, environment: Environment) -> None:
        self.home = home
        self.environment = environment
        self.servers: list[Server] = []
        self.urls: dict[str, str] = {}
        self._services: dict[str, dict[str, str]] = {}

    def boot(self, pause: Callable[[float], None] = time.sleep, services: Iterable[Engaged] = ()) -> None:
        """Start what is needed and wait until it answers; on failure nothing is left running.

        Args:
          services: what other commands are told about, besides these servers.
        """
        self._services = {engaged.service.setting: dict(engaged.variables) for engaged in services}
        end_leftovers(self.home)
        with ExitStack() as undo:
            undo.callback(self.stop)
            if "REDIS_URL" in self.environment.embedded:
                self._boot_redis(pause)
            if "DATABASE_URL" in self.environment.embedded:
                self._boot_postgres(pause)
            self.publish()
            undo.pop_all()

    def publish(self) -> None:
        """Write ``servers.json``: what other commands need, and processes for whoever cleans up after us."""
        processes = [server.process.pid for server in self.servers if server.process is not None]
        told = {"urls": self.urls, "services": self._services, "processes": [[pid, _born(pid)] for pid in processes]}
        write_private(self.home.servers_json, json.dumps(told) + "\n")

    def _boot_postgres(self, pause: Callable[[float], None]) -> None:
        say("starting Postgres")
        home = self.home
        server = Postgres(
            installation(home),
            log=home.logs / "postgres.log",
            port=home.remembered_port("postgres"),
            password=home.secret("postgres_superuser"),
        )
        self.servers.append(server)
        server.boot(pause)
        home.remember_port("postgres", server.port)
        schema = self.environment.variables.get("CALLBOARD_DB_SCHEMA", "callboard")
        self.urls["DATABASE_URL"] = server.ensure_database(home.secret("postgres_owner"), views_schema(schema))

    def _boot_redis(self, pause: Callable[[float], None]) -> None:
        say("starting Valkey")
        home = self.home
        server = Valkey(
            home.folder / "redis",
            log=home.logs / "redis.log",
            port=home.remembered_port("redis"),
            password=home.secret("redis"),
        )
        self.servers.append(server)
        server.boot(pause)
        home.remember_port("redis", server.port)
        self.urls["REDIS_URL"] = server.url

    def stop(self) -> None:
        """Stop Redis first, then Postgres, which keeps what counts."""
        self.home.servers_json.unlink(missing_ok=True)
        for server in self.servers:
            server.stop()
        self.servers.clear()
