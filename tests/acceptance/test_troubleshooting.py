"""docs/how-to/troubleshooting.md: every trouble brought about for real, looked at, and ended as the page says."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from actors.runtime.keys import messages_key
from tests.acceptance.remedies import Remedies
from tests.acceptance.spine import RELOAD_S, Spine
from tests.support import missing, wait_for
from tests.unit.hook_server import HookServer, plain, serving

pytestmark = pytest.mark.timeout(300)

PAGE = Remedies("how-to/troubleshooting.md")
#: Seconds that anything here may take on a busy machine.
PATIENCE_S = 60.0


def test_every_entry_has_blocks_and_a_test_and_says_what_they_show() -> None:
    assert [title for title, blocks in PAGE.entries.items() if not blocks] == []
    assert sorted(PAGE.tested) == sorted(PAGE.entries)
    assert set(PAGE.shown) == set(PAGE.runs)
    assert PAGE.loose() == []


# -- bringing it about ----------------------------------------------------------------------------------------


@contextmanager
def unattended(spine: Spine) -> Iterator[None]:
    """While this lasts ``up`` starts nothing again; afterwards everything that ``up`` looks after is there."""
    up = psutil.Process(spine.running.process.pid)
    up.suspend()
    try:
        yield
    finally:
        up.resume()
        wait_for(lambda: ready(spine), PATIENCE_S, interval=0.1, what="readiness")
        spine.engine.dispose()  # its connections may have died with the server
        spine.worker_pids()


def ready(spine: Spine) -> bool:
    """Whether the web process is, and reaches both servers."""
    try:
        return bool(httpx.get(f"{spine.url}/readyz", timeout=5).json()["status"] == "ready")
    except (httpx.TransportError, ValueError):
        return False


def kill(spine: Spine, kind: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to all processes of a kind, SIGKILL to those below them too, and wait until they are gone."""
    processes = [psutil.Process(pid) for pid in spine.clone.up_json["pids"][kind]]
    if number == signal.SIGKILL:
        processes += [child for process in processes for child in process.children(recursive=True)]
        for process in processes:
            process.suspend()  # nobody tells of another's death: as if the host had lost its power
    for process in processes:
        process.send_signal(number)
    wait_for(lambda: all(_gone(process) for process in processes), PATIENCE_S, what="the end of the killed")


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def begun(spine: Spine, milliseconds: int, **options: Any) -> str:
    """Send a sleep; returns its id once its actor has reported that it is at it."""
    job_id = spine.send("sleep", {"delayMs": milliseconds}, **options)
    wait_for(lambda: spine.job(job_id)["progress"], PATIENCE_S, what="its first report")
    return job_id


def ten_minutes_later(spine: Spine) -> None:
    """The night goes on: whoever was silent or waited has been so for ten minutes."""
    spine.execute("UPDATE callboard.workers SET beat_at = beat_at - interval '10 min' WHERE dead_at IS NULL")
    spine.execute(
        "UPDATE callboard.jobs SET run_at = run_at - interval '10 min' WHERE status = 'PENDING' AND run_at < now()"
    )


def completed(spine: Spine, job_id: str, attempts: int = 1) -> dict[str, Any]:
    """The row of a job that must end well, in this many attempts."""
    row = spine.wait_until_ended(job_id, PATIENCE_S)
    assert (row["status"], row["attempts"]) == ("COMPLETED", attempts), (row["error"], row["errors"])
    return row


# -- the entries ----------------------------------------------------------------------------------------------


@PAGE.entry("First of all")
def test_all_is_well(spine: Spine) -> None:
    spine.worker_pids()
    PAGE.look("check", spine)


@PAGE.entry("Nothing runs", "How long is the queue?", "A job is stuck in RUNNING")
def test_all_workers_are_dead(spine: Spine) -> None:
    with unattended(spine):
        stuck = begun(spine, 1200)
        kill(spine, "worker-master")
        waiting = spine.send("sleep", {"delayMs": 1})
        scheduled = spine.send("sleep", {"delayMs": 1}, delay=3_600_000)
        ten_minutes_later(spine)

        PAGE.look("unattended", spine, code=1)
        PAGE.look("queue-length", spine)
        assert stuck in PAGE.look("running", spine)
        assert spine.job(stuck)["status"] == "RUNNING"

        with PAGE.started("start-worker", spine):
            completed(spine, waiting)
            row = completed(spine, stuck, attempts=2)
            assert [entry["kind"] for entry in row["errors"]] == ["crashed"]
            said = (spine.clone.folder / ".callboard/logs/worker-start-worker.log").read_text()
            PAGE.compare("start-worker", said)
            PAGE.look("taken-back", spine, JOB=stuck)
    spine.cancel(scheduled)

    long = begun(spine, 60_000)
    PAGE.look("cancel-running", spine, JOB=long)
    assert spine.wait_for_status(long, "CANCELLED")["attempts"] == 1


RESIZE = '''
"""``resize-image``: an actor that the workers did not have."""

import dramatiq


@dramatiq.actor(actor_name="resize-image")
def resize_image(width: int) -> int:
    """Resize an image."""
    return width
'''
SEND_TWO = f"import actors\n{RESIZE}\nprint(resize_image.send(640).message_id, resize_image.send(0).message_id)"


@PAGE.entry("One type never starts")
def test_the_workers_lack_an_actor(spine: Spine) -> None:
    wanted, mistaken = spine.python(SEND_TWO).split()
    wait_for(lambda: min(spine.job(each)["dispatch"] for each in (wanted, mistaken)) > 1, PATIENCE_S, what="offers")
    PAGE.look("refused", spine)
    PAGE.look("wrong-name", spine, JOB=mistaken)
    assert [spine.job(each)["status"] for each in (wanted, mistaken)] == ["PENDING", "CANCELLED"]

    before = spine.worker_pids()
    (spine.clone.folder / "actors" / "resizing.py").write_text(RESIZE)
    wait_for(lambda: not set(before) & set(spine.worker_pids()), RELOAD_S, interval=0.1, what="other workers")
    assert spine.wait_for_status(wanted, "COMPLETED", 90)["result"] == 640
    wait_for(lambda: ready(spine), PATIENCE_S, interval=0.1, what="readiness")
    spine.leader()


class Receiver:
    """Answers webhooks with a status, until it is mended."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, handler: BaseHTTPRequestHandler, server: HookServer) -> None:
        plain(self.status)(handler, server)


def hook(spine: Spine, server: HookServer, max_attempts: int, delay_ms: int) -> str:
    """Send a webhook with an even backoff."""
    backoff = {"type": "fixed", "delay": delay_ms}
    return spine.send("webhook", {"url": server.url, "body": 7}, max_attempts=max_attempts, backoff=backoff)


@PAGE.entry("A job fails again and again")
def test_a_receiver_is_out_of_order(spine: Spine) -> None:
    receiver = Receiver(503)
    with serving(receiver) as server:
        mended, given_up = hook(spine, server, 20, 2000), hook(spine, server, 20, 600_000)
        wait_for(lambda: spine.job(mended)["errors"] and spine.job(given_up)["errors"], PATIENCE_S, what="failures")
        PAGE.look("attempts", spine, JOB=mended)
        receiver.status = 200
        row = spine.wait_until_ended(mended, PATIENCE_S)
        assert row["status"] == "COMPLETED"
        PAGE.look("cancel-retrying", spine, JOB=given_up)
        assert spine.job(given_up)["status"] == "CANCELLED"


@PAGE.entry("Jobs have failed")
def test_a_receiver_does_not_know_us(spine: Spine) -> None:
    receiver = Receiver(401)
    with serving(receiver) as server:
        job_id = hook(spine, server, 2, 10)
        spine.wait_for_status(job_id, "FAILED", PATIENCE_S)
        PAGE.look("failed", spine, JOB=job_id)
        receiver.status = 200
        PAGE.look("retry-failed", spine, JOB=job_id)
        completed(spine, job_id, attempts=3)
    before = spine.count()
    PAGE.look("bad-payload", spine)
    assert spine.count() == before


@PAGE.entry("Workers do not reach Redis")
def test_redis_is_down(spine: Spine) -> None:
    if shutil.which("redis-cli") is None:
        missing("redis-cli is not installed")
    with unattended(spine):
        kill(spine, "redis")
        job_id = spine.send("sleep", {"delayMs": 1})
        PAGE.look("ping", spine, code=1)
        PAGE.look("no-redis", spine, code=1)
        wait_for(lambda: PAGE.look("redis-log", spine), PATIENCE_S, what="a worker's complaint")
        assert spine.job(job_id)["status"] == "PENDING"
    completed(spine, job_id)


@PAGE.entry("Redis was flushed, lost or restored")
def test_redis_is_flushed(spine: Spine) -> None:
    workers = [psutil.Process(pid) for pid in spine.worker_pids().values()]
    for worker in workers:
        worker.suspend()  # or the job would have been taken before the flush
    try:
        since = datetime.now()  # noqa: DTZ005 - as the log writes it
        job_id = spine.send("sleep", {"delayMs": 1})
        flush(spine)
    finally:
        for worker in workers:
            worker.resume()
    completed(spine, job_id)
    wait_for(lambda: told_since("flushed", spine, since), PATIENCE_S, what="news of the flush")


def flush(spine: Spine) -> None:
    """FLUSHALL, once the offer has arrived."""
    with Redis.from_url(f"{spine.told['redis_url']}/1") as client:
        wait_for(lambda: client.exists(messages_key("default")), PATIENCE_S, what="the offer")
        client.flushall()


def told_since(name: str, spine: Spine, since: datetime) -> bool:
    """Whether the last line that a block shows is newer than this."""
    last = PAGE.look(name, spine).splitlines()[-1]
    return datetime.strptime(last[1:24], "%Y-%m-%d %H:%M:%S,%f") >= since  # noqa: DTZ007


@PAGE.entry("Postgres is down, or was restarted")
def test_postgres_is_restarted(spine: Spine) -> None:
    with unattended(spine):
        job_id = begun(spine, 3000)
        kill(spine, "postgres", number=signal.SIGQUIT)
        PAGE.look("ready", spine)
        PAGE.look("no-postgres", spine, code=1)
    completed(spine, job_id)
    wait_for(lambda: PAGE.look("back", spine), PATIENCE_S, what="the workers' return")
    with spine.api() as api:
        body = {"type": "sleep", "payload": {"delayMs": 1}}
        wait_for(lambda: api.post("/jobs", json=body).status_code == 202, PATIENCE_S, what="a send that is accepted")


@PAGE.entry("One job kills workers")
def test_a_job_kills_three_processes(spine: Spine) -> None:
    spine.leader()
    job_id = spine.send("sleep", {"delayMs": 2000})
    for number in (1, 2, 3):

        def at_it(number: int = number) -> dict[str, Any]:
            row = spine.job(job_id)
            assert (row["attempts"], row["status"]) == (number, "RUNNING")
            assert row["progress"]
            return row

        row = wait_for(at_it, PATIENCE_S, what=f"attempt {number}")
        os.kill(spine.value("SELECT pid FROM callboard.workers WHERE id = :id", id=row["worker_id"]), signal.SIGKILL)
    spine.wait_for_status(job_id, "FAILED", PATIENCE_S)
    assert job_id in PAGE.look("killers", spine)
    PAGE.look("retry-killer", spine, JOB=job_id)
    completed(spine, job_id, attempts=4)
    spine.leader()


@PAGE.entry('The page says "Stale"')
def test_the_web_process_hangs(spine: Spine) -> None:
    assert "Stale: as of" in (spine.clone.folder / "web" / "static" / "live.js").read_text()
    [pid] = spine.clone.up_json["pids"]["web"]
    job_id = begun(spine, 60_000)
    os.kill(pid, signal.SIGSTOP)
    PAGE.look("alive", spine, code=28)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: ready(spine), PATIENCE_S, interval=0.1, what="another web process")
    assert job_id in PAGE.look("stream", spine, code=28)
    spine.cancel(job_id)


@PAGE.entry("A unique key seems stuck")
def test_a_scheduled_job_holds_a_key(spine: Spine) -> None:
    holder = spine.send("sleep", {"delayMs": 1}, delay=604_800_000, unique_key="nightly")
    assert spine.send("sleep", {"delayMs": 2}, unique_key="nightly") == holder
    assert holder in PAGE.look("key-holder", spine)
    PAGE.look("free-key", spine, JOB=holder)
    job_id = spine.send("sleep", {"delayMs": 2}, unique_key="nightly")
    assert job_id != holder
    completed(spine, job_id)
