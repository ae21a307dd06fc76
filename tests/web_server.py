"""A real web process for tests, and clients that watch it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import connect_sse

from tests.support import wait_for

ROOT = Path(__file__).parent.parent
#: The foreign origin that test servers allow.
ORIGIN = "https://app.example"


class WebServer:
    """``uvicorn --factory web.app:create_app`` (or another application) on a port of its own."""

    def __init__(self, environment: dict[str, str], log: Path, app: str = "web.app:create_app") -> None:
        self.app = app
        self.environment = environment
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "uvicorn", "--factory", self.app, "--port", str(self.port)]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**inherited, **self.environment}, stdout=log, stderr=log
            )
        wait_for(self._answers, 30, what="the web process answers")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the web process ended: {self.log.read_text()[-3000:]}")
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> float:
        """End it; returns the seconds that took."""
        if self.process is None:
            return 0.0
        begun = time.monotonic()
        self.process.send_signal(how)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        return time.monotonic() - begun


@contextmanager
def web_server(environment: dict[str, str], log: Path) -> Iterator[WebServer]:
    """A started server; ended afterwards."""
    server = WebServer(environment, log)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Listener:
    """A client of an event stream, reading in a thread; what it got can be asked at any time."""

    def __init__(self, url: str, *, key: str | None = None, last_event_id: str | None = None) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.resets = 0
        self.last_event_id = last_event_id
        self.status: int | None = None
        self.ended = threading.Event()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        self._client = httpx.Client(timeout=httpx.Timeout(5, read=60), headers=headers)
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._read, args=(url,), daemon=True)
        self._thread.start()
        wait_for(lambda: self.status is not None or self.ended.is_set(), what="the stream opens")

    def _read(self, url: str) -> None:
        try:
            with connect_sse(self._client, "GET", url) as source:
                self._response = source.response
                self.status = source.response.status_code
                if self.status != 200:
                    return
                for event in source.iter_sse():
                    self.last_event_id = event.id or self.last_event_id
                    if event.event == "reset":
                        self.resets += 1
                    elif event.event == "job":
                        self.jobs.append(json.loads(event.data))
        except (httpx.HTTPError, RuntimeError):
            pass  # closed by either side
        finally:
            self._client.close()
            self.ended.set()

    def close(self) -> None:
        """Go away."""
        if self._response is not None and not self.ended.is_set():
            stream = self._response.extensions["network_stream"]
            raw = stream.get_extra_info("socket")
            try:
                raw.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the server was quicker
        assert self.ended.wait(5)

    def statuses(self, job_id: str) -> list[str]:
        """The statuses of one job, in the order in which they came."""
        return [event["status"] for event in list(self.jobs) if event["id"] == str(job_id)]

    def states(self) -> dict[str, dict[str, Any]]:
        """The highest version of each job; never less than one before it."""
        states: dict[str, dict[str, Any]] = {}
        for event in list(self.jobs):
            if event["version"] >= states.get(event["id"], {"version": 0})["version"]:
                states[event["id"]] = event
        return states

    def went_backwards(self) -> list[dict[str, Any]]:
        """Events with a lower version than an earlier one of their job."""
        highest: dict[str, int] = {}
        wrong = []
        for event in list(self.jobs):
            if event["version"] < highest.get(event["id"], 0):
                wrong.append(event)
            highest[event["id"]] = max(event["version"], highest.get(event["id"], 0))
        return wrong
