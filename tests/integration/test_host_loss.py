"""A host vanishes: its network is cut for real, in a network namespace of the test's own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from dev.accounts import postgres_account
from dev.migrations import upgrade
from dev.postgres import Installation, Postgres, reachable_binaries
from tests.conftest import clean_environment
from tests.support import scratch_folder, wait_for

pytestmark = pytest.mark.once

#: The second attempt after the loss of a worker's host (DESIGN section 8).
BAR_S = 20.0
ACTORS = """
import time

import actors
import dramatiq


@dramatiq.actor(actor_name="long", max_retries=3)
def long_job(seconds: float) -> None:
    time.sleep(seconds)
"""


class OpenPostgres(Postgres):
    """The embedded Postgres, reachable from one more address."""

    address = ""

    def command(self) -> list[str]:
        return [*super().command(), "-c", f"listen_addresses=127.0.0.1,{self.address}"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def other_host() -> Iterator[tuple[str, str, str]]:
    """A network namespace joined to ours by one cable; gives its name, our address, and our end of the cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make a network namespace")
    tag = secrets.token_hex(3)
    name, ours, theirs = f"cb-{tag}", f"cb{tag}a", f"cb{tag}b"
    net = f"10.213.{secrets.randbelow(250)}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
        ip("link", "set", theirs, "netns", name)
        ip("addr", "add", f"{net}.1/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{net}.2/30", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name, f"{net}.1", ours
    finally:
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", ours)
        ip("netns", "del", name)


@pytest.mark.timeout(180)
def test_a_vanished_hosts_job_runs_again_within_20_s(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "vanishing.py").write_text(ACTORS)
    workers: list[subprocess.Popen[bytes]] = []
    with other_host() as (namespace, address, cable), scratch_folder() as folder:
        account = postgres_account()
        place = Installation(reachable_binaries(account), folder / "postgres", account)
        server = OpenPostgres(place, log=folder / "log", port=None, password=secrets.token_urlsafe(16), durable=False)
        server.address = address
        server.prepare()
        with (folder / "postgres" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {address}/30 scram-sha-256\n")
        server.boot()
        # Redis stays in reach by its loopback address for the survivor only; the lost host gets no further work.
        near = server.url()
        far = near.replace("127.0.0.1", address)
        try:
            with clean_environment(DATABASE_URL=near, REDIS_URL=redis_url):
                upgrade()
                start = [sys.executable, "-m", "dramatiq", "vanishing", "-p", "1", "-t", "2"]
                paths = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
                environment = {**os.environ, "PYTHONPATH": paths}
                environment_there = {**environment, "DATABASE_URL": far}
                inside = ["ip", "netns", "exec", namespace]
                with psycopg.connect(near, autocommit=True) as ledger:
                    survivor = subprocess.Popen(start, env=environment)
                    workers.append(survivor)
                    lost_id = _lose(inside, start, environment_there, near, ledger, workers)
                    ip("link", "set", cable, "down")
                    cut_at = time.monotonic()

                    def second_attempt() -> tuple[str, int, int] | None:
                        return ledger.execute(
                            "SELECT errors->0->>'kind', attempts, crashes FROM callboard.jobs"
                            " WHERE status = 'RUNNING' AND attempts = 2 AND worker_id <> %s",
                            (lost_id,),
                        ).fetchone()

                    kind, attempts, crashes = wait_for(second_attempt, 45, what="a second attempt elsewhere")
                    took = time.monotonic() - cut_at
                    print(f"second attempt {took:.1f} s after the host was cut off")
                    assert (kind, attempts, crashes) == ("lost", 2, 0)
                    assert took <= BAR_S
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            server.stop()


def _lose(
    inside: list[str],
    start: list[str],
    environment: dict[str, str],
    near: str,
    ledger: psycopg.Connection[tuple[object, ...]],
    workers: list[subprocess.Popen[bytes]],
) -> object:
    """Start a worker on the other host and give it a job by hand, as if its claim had just returned.

    Redis has no address over there, so the worker cannot fetch; the lease is what this test is about, and the row
    says RUNNING with that worker's name exactly as a claim does.
    """
    wait_for(lambda: _alive(ledger) == 1, 30, what="the survivor's sign-in")
    workers.append(subprocess.Popen([*inside, *start], env=environment))
    wait_for(lambda: _alive(ledger) == 2, 30, what="the other host's sign-in")
    lost = ledger.execute(
        "SELECT id FROM callboard.workers WHERE dead_at IS NULL ORDER BY started_at DESC LIMIT 1"
    ).fetchone()
    assert lost is not None
    ledger.execute(
        "INSERT INTO callboard.jobs (id, tenant_id, actor, queue, args, kwargs, options, message_timestamp, status,"
        " attempts, max_attempts, worker_id, attempt_token, started_at)"
        " VALUES (gen_random_uuid(), 'default', 'long', 'default', '[30]', '{}', '{}', 0, 'RUNNING',"
        " 1, 4, %s, gen_random_uuid(), now())",
        (lost[0],),
    )
    return lost[0]


def _alive(ledger: psycopg.Connection[tuple[object, ...]]) -> int:
    row = ledger.execute("SELECT count(*) FROM callboard.workers WHERE dead_at IS NULL AND kind = 'worker'").fetchone()
    assert row is not None
    return int(str(row[0]))
