"""One running ``up`` as its users see it: by HTTP, in a signed-in browser's place, by ``run``, and in the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
from sqlalchemy import text

from models.engine import make_engine
from models.settings import load_settings
from tests.acceptance.clone import Clone, Running
from tests.conftest import clean_environment
from tests.integration.worker_support import Ledger
from tests.support import wait_for

#: Seconds until every process of ``up`` works with changed code.
RELOAD_S = 60.0


class Spine(Ledger):
    """A ready ``up`` and its tables."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.clone: Clone = running.clone
        self.told = running.clone.up_json
        self.url: str = self.told["url"]
        with clean_environment(DATABASE_URL=self.told["database_url"], REDIS_URL=self.told["redis_url"]):
            super().__init__(make_engine(load_settings(_env_file=None)))

    # -- by HTTP

    @contextmanager
    def client(self, key: str | None) -> Iterator[httpx.Client]:
        """A client of the API with this key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=self.url, headers=headers, timeout=20) as client:
            yield client

    @contextmanager
    def api(self) -> Iterator[httpx.Client]:
        """A client with the key that ``up`` told."""
        with self.client(self.told["api_key"]) as client:
            yield client

    def send(self, job_type: str, payload: dict[str, Any], **options: Any) -> str:
        """``POST /jobs``; returns the job's id."""
        with self.api() as api:
            answer = api.post("/jobs", json={"type": job_type, "payload": payload, "options": options})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
        return str(answer.json()["id"])

    def cancel(self, *job_ids: str) -> None:
        """``POST /jobs/{id}/cancel`` of each, and wait until all have ended."""
        with self.api() as api:
            for job_id in job_ids:
                assert api.post(f"/jobs/{job_id}/cancel").is_success
        for job_id in job_ids:
            self.wait_for_status(job_id, "CANCELLED")

    def knows(self, job_type: str) -> bool:
        """Whether the web offers this type; a web process that is just being reloaded does not."""
        try:
            with self.api() as api:
                answer = api.get("/job-types")
        except httpx.TransportError:
            return False
        return job_type in [kind["type"] for kind in answer.json()["job_types"]]

    def sign_in_link(self) -> str:
        """The one-time link that ``up`` printed."""
        link = re.search(rf"Sign in +({re.escape(self.url)}/sign-in\?token=\S+)", self.running.said())
        assert link is not None, self.running.said()
        return link[1]

    # -- by ./callboard run

    def python(self, code: str) -> str:
        """Run Python with this folder's servers; returns what it printed."""
        done = self.clone.call("run", "--", "python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    # -- in the tables and among the processes

    def value(self, statement: str, **values: Any) -> Any:
        """The one value that SQL of the test's own gives."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).scalar_one()

    def count(self) -> int:
        """Rows of jobs."""
        return int(self.value("SELECT count(*) FROM callboard.jobs"))

    def worker_pids(self) -> dict[str, int]:
        """Id and pid of both workers, once both have signed in and ``up`` says so too."""

        def both() -> dict[str, int]:
            told = set(self.clone.up_json["pids"].get("worker", []))
            found = {str(row["id"]): row["pid"] for row in self.workers() if _lives(row, "worker")}
            assert len(told) == 2, told
            assert set(found.values()) == told, (found, told)
            return found

        return wait_for(both, RELOAD_S, what="two workers")

    def leader(self) -> tuple[str, int]:
        """Id and pid of the worker that leads, once its quarantine child is ready."""

        def ready() -> tuple[str, int]:
            leader = str(self.value("SELECT holder FROM callboard.leases WHERE name = 'maintenance'"))
            pid = self.worker_pids()[leader]
            children = {child.pid for child in psutil.Process(pid).children()}
            assert children & {row["pid"] for row in self.workers() if _lives(row, "quarantine")}
            return leader, pid

        return wait_for(_unless_gone(ready), RELOAD_S, what="a leader with its quarantine child")


def _lives(worker: dict[str, Any], kind: str) -> bool:
    return bool(worker["kind"] == kind and worker["dead_at"] is None)


def _unless_gone(ask: Any) -> Any:
    """The same question; who has just ended is nobody to ask."""

    def asked() -> Any:
        try:
            return ask()
        except (psutil.NoSuchProcess, KeyError):
            return None

    return asked
