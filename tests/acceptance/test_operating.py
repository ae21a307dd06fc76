"""Operating: ``check`` and ``jobs``; a second terminal shares the work, and Ctrl-C in one of them loses nothing."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import pytest

from models.engine import make_engine
from models.settings import load_settings
from tests.acceptance.clone import Clone
from tests.acceptance.spine import Spine
from tests.acceptance.terminal import CTRL_C, terminal
from tests.conftest import clean_environment
from tests.integration.worker_support import COMPLETED, RUNNING, Ledger
from tests.support import scratch_folder, wait_for

pytestmark = pytest.mark.timeout(300)

#: Seconds that anything here may take on a busy machine.
PATIENCE_S = 90.0
WORKER = ("run", "--", "dramatiq", "actors", "-p", "1")
JOBS = 200
#: Sends them, each long enough that a signal comes in the middle of some.
SEND = f"from actors import send_many, sleep; send_many([sleep.message(delay_ms=400) for _ in range({JOBS})])"


def check(clone: Clone) -> tuple[int, dict[str, str]]:
    """Exit code, and the codes that were found with their levels."""
    done = clone.call("check", "--json")
    return done.returncode, {finding["code"]: finding["level"] for finding in json.loads(done.stdout)["findings"]}


def test_a_running_up_has_no_error(spine: Spine) -> None:
    code, found = check(spine.clone)
    found.pop("workers-crashed", None)  # other tests kill some
    assert (code, found) == (0, {})


def test_jobs_beside_a_running_up(spine: Spine) -> None:
    job = spine.send("sleep", {"delayMs": 1}, delay=3_600_000)
    assert spine.clone.call("jobs", "cancel", job).stdout == f"{job} is CANCELLED\n"
    assert spine.clone.call("jobs", "retry", job).stdout == f"{job} is PENDING\n"
    assert spine.wait_for_status(job, COMPLETED)["attempts"] == 1


class Fresh(NamedTuple):
    """A folder in which nothing runs, and what ``check`` said there."""

    clone: Clone
    before_migration: tuple[int, dict[str, str]]
    after_migration: tuple[int, dict[str, str]]


@pytest.fixture(scope="module")
def fresh() -> Iterator[Fresh]:
    """A folder of its own, migrated."""
    with scratch_folder() as folder:
        clone = Clone(folder / "clone")
        before = check(clone)
        assert clone.call("migrate").returncode == 0
        yield Fresh(clone, before, check(clone))


def test_a_folder_where_nothing_runs_lends_its_servers_to_check(fresh: Fresh) -> None:
    assert fresh.before_migration == (1, {"schema-missing": "error"})
    assert fresh.after_migration == (0, {"no-worker": "warning"})


def workers_below(ledger: Ledger, root: int) -> set[UUID]:
    """The workers among this process's children that have signed in."""
    below = {child.pid for child in psutil.Process(root).children(recursive=True)}
    return {w["id"] for w in ledger.workers() if w["pid"] in below and w["kind"] == "worker" and not w["dead_at"]}


def send_and_interrupt(
    ledger: Ledger, clone: Clone, process: Popen[bytes], interrupt: Callable[[], None]
) -> tuple[list[dict[str, Any]], set[UUID]]:
    """Send the jobs, interrupt the workers below a process while they are in the middle of some, and wait for all.

    Returns: the rows of the jobs, and the ids of the interrupted workers.
    """
    theirs = wait_for(lambda: workers_below(ledger, process.pid), PATIENCE_S, interval=0.2, what="the workers")
    before = {row["id"] for row in ledger.jobs()}
    assert clone.call("run", "--", "python", "-c", SEND).returncode == 0

    def sent() -> list[dict[str, Any]]:
        return [row for row in ledger.jobs() if row["id"] not in before]

    def in_the_middle() -> bool:
        by_status = Counter(row["status"] for row in sent() if row["worker_id"] in theirs)
        return by_status[COMPLETED] >= 1 and by_status[RUNNING] >= 2

    wait_for(in_the_middle, PATIENCE_S, what="workers in the middle of jobs")
    interrupt()
    wait_for(
        lambda: {w["death"] for w in ledger.workers() if w["id"] in theirs} == {"stopped"},
        PATIENCE_S, what="the interrupted workers' end",
    )  # fmt: skip

    def all_done() -> list[dict[str, Any]]:
        rows = sent()
        assert Counter(row["status"] for row in rows) == {COMPLETED: JOBS}
        return rows

    return wait_for(all_done, PATIENCE_S, interval=0.2, what="all jobs"), theirs


def nothing_was_lost(ledger: Ledger, rows: list[dict[str, Any]], interrupted: set[UUID]) -> int:
    """No attempt burned, no crash counted, both have worked; returns how many jobs the interrupted ones did."""
    assert Counter((row["attempts"], row["crashes"], len(row["errors"])) for row in rows) == {(1, 0, 0): JOBS}
    here = sum(row["worker_id"] in interrupted for row in rows)
    assert 0 < here < JOBS
    return here


def test_a_second_terminal_shares_200_jobs_with_up_and_ctrl_c_in_it_loses_nothing(
    spine: Spine, measured: Callable[[str], None]
) -> None:
    crashed = {w["id"] for w in spine.workers() if w["death"] == "crashed"}
    with terminal(spine.clone, *WORKER) as second:
        rows, interrupted = send_and_interrupt(spine, spine.clone, second.process, lambda: second.press(CTRL_C))
        assert second.process.wait(PATIENCE_S) == 0, second.said()
        here = nothing_was_lost(spine, rows, interrupted)
        for event in ("worker.signed_in", "redis.connected"):
            assert f"event='{event}'" in second.said()
    assert {w["id"] for w in spine.workers() if w["death"] == "crashed"} == crashed
    measured(f"{here} of {JOBS} jobs ran in the terminal that was interrupted")


@contextmanager
def workers(clone: Clone, output: Path) -> Iterator[Popen[bytes]]:
    """Workers in a process group of their own, without a terminal."""
    process = clone.start(*WORKER, output=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(PATIENCE_S)


def test_two_without_up_share_200_jobs_and_the_one_with_the_servers_is_interrupted(
    fresh: Fresh, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    """The signal comes to ``run``, to Dramatiq's master and, passed on by both, to the worker again."""
    clone = fresh.clone
    with workers(clone, tmp_path / "first.out") as first:
        servers = clone.folder / ".callboard" / "servers.json"
        urls = wait_for(
            lambda: json.loads(servers.read_text()).get("urls") if servers.exists() else None,
            PATIENCE_S, what="the servers",
        )  # fmt: skip
        with clean_environment(**urls):
            ledger = Ledger(make_engine(load_settings(_env_file=None)))
        with workers(clone, tmp_path / "second.out") as second:
            wait_for(lambda: workers_below(ledger, second.pid), PATIENCE_S, interval=0.2, what="the second")
            rows, interrupted = send_and_interrupt(ledger, clone, first, lambda: os.killpg(first.pid, signal.SIGINT))
            here = nothing_was_lost(ledger, rows, interrupted)
            assert {w["death"] for w in ledger.workers()} <= {"stopped", None}
        assert first.wait(PATIENCE_S) == 0
        ledger.engine.dispose()
    assert "waiting for another ./callboard command" in (tmp_path / "first.out").read_text()
    measured(f"{here} of {JOBS} jobs ran in the workers that were interrupted")
