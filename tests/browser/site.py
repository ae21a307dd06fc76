"""The real thing for a browser to look at: web and worker processes on a database of the test's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from models import tenancy
from models.tables import jobs
from tests.support import wait_for

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A process of ours, its output in a file."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, in a process group of its own."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and whatever it started."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(5)
        self._process = None

    def check(self) -> None:
        """Fail with its last words when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self._log.read_text()[-4000:]}")


class Site:
    """One web process, one worker process with four threads, and what a test needs to know of them."""

    def __init__(self, environment: Mapping[str, str], engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.environment = dict(environment)
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        python = sys.executable
        self.web = Child(
            "web",
            [python, "-m", "uvicorn", "--factory", "web.app:create_app", "--host", "127.0.0.1", "--port", str(port)],
            environment,
            folder / "web.log",
        )
        self.worker = Child(
            "worker", [python, "-m", "dramatiq", "actors", "-p", "1", "-t", "4"], environment, folder / "worker.log"
        )

    def start_web(self) -> None:
        """Start the web process and wait until it is ready."""
        self.web.start()
        wait_for(self._is_ready, 30, what="web is ready")

    def _is_ready(self) -> bool:
        self.web.check()
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def sign_in_link(self, tenant: str = tenancy.DEFAULT_TENANT) -> str:
        """A fresh one-time link."""
        with self.engine.connect() as connection:
            tenancy.set_operator(connection, "operator", "a password for tests")
            return f"{self.url}/sign-in?token={tenancy.create_sign_in_link(connection, 'operator', tenant)}"

    def api_key(self, tenant: str = tenancy.DEFAULT_TENANT) -> str:
        """A key of a tenant, which is made if need be."""
        with self.engine.connect() as connection:
            tenancy.ensure_tenant(connection, tenant)
            return tenancy.create_key(connection, tenant)

    def post(self, path: str, body: object, key: str) -> Any:
        """Ask the API; returns the JSON of the answer."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def send_sleep(self, delay_ms: int, key: str, **options: Any) -> str:
        """Send a job by the API; returns its id."""
        job = self.post("/jobs", {"type": "sleep", "payload": {"delayMs": delay_ms}, "options": options}, key)
        return str(job["id"])

    def send_past_the_web(self, delay_ms: int) -> str:
        """Send a job as another service would, in a process of its own; returns its id."""
        code = f"from actors import sleep; print(sleep.send(delay_ms={delay_ms}).message_id)"
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=ROOT,
            check=True,
            timeout=30,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def status(self, job_id: str) -> str | None:
        """What the ledger says of a job."""
        with self.engine.connect() as connection:
            return connection.execute(select(jobs.c.status).where(jobs.c.id == job_id)).scalar()
