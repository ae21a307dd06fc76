"""The processes of `up`: workers, cron, web, services; how each is started and known to be ready."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from dev.home import Home
from dev.processes import MARK, spawn
from dev.service import Engaged
from dev.supervisor import Child
from models.settings import Settings
from models.tables import workers

#: Milliseconds a worker lets its jobs finish after SIGTERM.
WORKER_SHUTDOWN_MS = 25_000
#: Seconds that open requests get after SIGTERM.
WEB_SHUTDOWN_S = 5
_PERIODIQ = "import sys; from periodiq import entrypoint; sys.argv[0] = 'periodiq'; entrypoint()"


class Children:
    """Makes the children of one folder.

    Args:
      engine: asks whether a worker has signed in.
      variables: their environment.
    """

    def __init__(self, home: Home, settings: Settings, variables: Mapping[str, str], engine: Engine) -> None:
        self.home = home
        self.settings = settings
        self.engine = engine
        self.variables = {**variables, MARK: str(home.folder), "PYTHONUNBUFFERED": "1"}
        # ``actors`` installs the broker; the others bring further actors.
        self.modules = ["actors", *(name for name in settings.actors if name != "actors")]

    def log(self, name: str) -> Path:
        """The file of a child's output."""
        return self.home.logs / f"{name.replace(' ', '-')}.log"

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, *arguments]
        return spawn(command, env=self.variables, cwd=self.home.root, log=self.log(name))

    def worker(self, number: int) -> Child:
        """One ``dramatiq -p 1``: a master and the process that works."""
        name = f"worker {number}"
        return Child(
            name=name,
            kind="worker",
            spawn=lambda: self._spawn(
                name,
                *("-m", "dramatiq", *self.modules, "-p", "1", "-t", str(self.settings.threads)),
                *("--worker-shutdown-timeout", str(WORKER_SHUTDOWN_MS)),
            ),
            is_ready=self._worker_is_ready,
            grace_s=WORKER_SHUTDOWN_MS / 1000 + 5,
        )

    def _worker_is_ready(self, child: Child) -> bool:
        """Whether the master's child has signed in; notes its pid."""
        assert child.process is not None
        try:
            pids = [process.pid for process in psutil.Process(child.process.pid).children()]
        except psutil.NoSuchProcess:
            return False
        if not pids:
            return False
        signed_in = select(workers.c.pid).where(
            workers.c.kind == "worker", workers.c.dead_at.is_(None), workers.c.pid.in_(pids)
        )
        try:
            with self.engine.connect() as connection:
                child.notes["worker"] = list(connection.execute(signed_in).scalars())
        except SQLAlchemyError:
            return False
        return bool(child.notes["worker"])

    def cron(self) -> Child:
        """periodiq; without any schedule it has nothing to do."""
        log = self.log("cron")
        start = 0

        def begin() -> subprocess.Popen[bytes]:
            nonlocal start
            start = log.stat().st_size if log.exists() else 0
            return self._spawn("cron", "-c", _PERIODIQ, *self.modules)

        def said(text: bytes) -> bool:
            with log.open("rb") as file:
                file.seek(start)
                return text in file.read()

        return Child(
            name="cron",
            kind="cron",
            spawn=begin,
            is_ready=lambda _child: said(b"Registered periodic actors"),
            nothing_to_do=lambda code: code == 1 and said(b"No periodic actor to schedule."),
            grace_s=5,
        )

    def service(self, engaged: Engaged) -> Child:
        """A development service on its ports."""
        name, ports = engaged.service.name, engaged.ports
        return Child(
            name=name,
            kind=name,
            spawn=lambda: self._spawn(name, "-m", f"dev.services.{name}", *map(str, ports.values())),
            is_ready=lambda _child: all_listen(ports.values()),
            grace_s=5,
        )

    def watch(self) -> Child:
        """Reports changed files in its log."""
        return Child(
            name="watch",
            kind="watch",
            spawn=lambda: self._spawn("watch", "-m", "dev.watch", *self.modules),
            is_ready=lambda _child: True,
            quiet=True,
        )

    def web(self, port: int) -> Child:
        """uvicorn on the loopback interface."""
        return Child(
            name="web",
            kind="web",
            spawn=lambda: self._spawn(
                "web",
                *("-m", "uvicorn", "--factory", "web.app:create_app", "--host", "127.0.0.1", "--port", str(port)),
                *("--timeout-graceful-shutdown", str(WEB_SHUTDOWN_S), "--no-access-log"),
            ),
            is_ready=lambda _child: answers(f"http://127.0.0.1:{port}/readyz"),
            grace_s=WEB_SHUTDOWN_S + 5,
        )


def all_listen(ports: Iterable[int]) -> bool:
    """Whether all these ports of this machine accept connections."""
    for port in ports:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    """Whether a GET of this address on this machine is answered with 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
