"""Worker processes die: what becomes of their jobs. Real processes, started as an operator starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from dramatiq import Message

from actors.runtime.broker import CallboardBroker, make_broker
from actors.runtime.marks import marks_folder, read
from models.engine import make_engine
from tests.conftest import SECRET_KEY, clean_environment, new_database
from tests.integration import worker_support
from tests.integration.worker_support import COMPLETED, FAILED, PENDING, RUNNING, Ledger, Row, Stage, a_valkey
from tests.support import wait_for

stage = worker_support.stage

ROOT = Path(__file__).parents[2]
#: What these processes run.
ACTORS = "tests.integration.crash_actors"
#: Seconds that a process may take to start on a busy machine.
START_S = 60.0
#: Seconds that anything else may take there; what is promised to be faster is measured.
PATIENCE_S = 40.0
#: What the ledger says of a job that killed its process too often.
THREE_TIMES = "worker process died 3 times while running this job"


class Member:
    """One ``dramatiq -p 1``: its master, its worker process, and the worker's row."""

    def __init__(self, master: subprocess.Popen[bytes], log: Path, row: Row) -> None:
        self.master = master
        self.log = log
        self.id: UUID = row["id"]
        self.pid: int = row["pid"]

    def kill(self) -> float:
        """SIGKILL to the worker process; returns when, in seconds since the epoch."""
        at = time.time()
        os.kill(self.pid, signal.SIGKILL)
        return at


class Company(Ledger):
    """Worker processes on one database and one Valkey."""

    def __init__(self, broker: CallboardBroker, environment: dict[str, str], folder: Path) -> None:
        super().__init__(make_engine(broker.settings))
        self.broker = broker
        self.folder = folder
        self.evidence = folder / "evidence"
        self.evidence.touch()
        self.environment = {**os.environ, **environment, "EVIDENCE": str(self.evidence)}
        self.masters: list[subprocess.Popen[bytes]] = []

    def hire(self, *queues: str, threads: int = 4) -> Member:
        """Start a worker that listens to these queues; it has signed in when this returns."""
        log = self.folder / f"worker-{len(self.masters)}.log"
        with log.open("wb") as output:
            master = subprocess.Popen(
                [sys.executable, "-m", "dramatiq", "-p", "1", "-t", str(threads), ACTORS, "-Q", *queues],
                cwd=ROOT, env=self.environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.masters.append(master)

        def signed_in() -> Row | None:
            assert master.poll() is None, log.read_text()[-2000:]
            children = {child.pid for child in psutil.Process(master.pid).children()}
            return next((w for w in self.workers() if w["pid"] in children and w["kind"] == "worker"), None)

        row = wait_for(signed_in, START_S, interval=0.1, what="the worker to sign in")
        assert row is not None
        return Member(master, log, row)

    def worker(self, worker: UUID) -> Row:
        """A worker's row."""
        return next(row for row in self.workers() if row["id"] == worker)

    def warm(self) -> None:
        """Wait until a quarantine child stands ready, as it does a while after the start."""
        wait_for(
            lambda: [w for w in self.workers() if w["kind"] == "quarantine" and w["dead_at"] is None],
            START_S, interval=0.1, what="a warm quarantine",
        )  # fmt: skip

    def send(self, actor: str, queue: str = "victim", **kwargs: Any) -> Message[Any]:
        """Send one job to a queue."""
        message: Message[Any] = Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options={})
        return self.broker.enqueue(message)

    def begun(self, *sent: Message[Any]) -> bool:
        """Whether all of these are inside of their actor."""
        text = self.evidence.read_text()
        return all(f"{message.message_id} 1 " in text for message in sent)

    def path(self) -> str:
        """A name for a file that is not there yet."""
        return str(self.folder / f"gate-{uuid4()}")

    def dismiss(self, *, but: int = 0) -> None:
        """Kill whatever still runs, except for the first ``but``."""
        for master in self.masters[but:]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(master.pid, signal.SIGKILL)
            master.wait()

    def close(self) -> None:
        """The end, without the marks of those that were killed last."""
        self.dismiss()
        for worker in self.workers():
            (marks_folder() / f"{worker['id']}.marks").unlink(missing_ok=True)
        self.broker.close()
        self.engine.dispose()


@pytest.fixture(scope="module")
def company(
    postgres_url: str,
    database_owner: tuple[str, str],
    template_database: str,
    server_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Company]:
    """Servers of this module's own, without a worker."""
    with (
        new_database(postgres_url, database_owner, template_database) as database_url,
        a_valkey(server_folder) as valkey,
    ):
        values = {"DATABASE_URL": database_url, "REDIS_URL": valkey.url, "CALLBOARD_SECRET_KEY": SECRET_KEY}
        with clean_environment(**values):
            broker = make_broker()
            assert broker.settings.database_url  # read while the environment is ours
        company = Company(broker, values, tmp_path_factory.mktemp("company"))
        try:
            yield company
        finally:
            company.close()


@pytest.fixture(scope="module")
def survivor(company: Company) -> Member:
    """A worker that outlives every test here, listens to a queue of its own, and has a quarantine child ready."""
    member = company.hire("survivor")
    company.warm()
    return member


@pytest.fixture
def victim(survivor: Member, company: Company) -> Iterator[Member]:
    """A worker that may be killed; the survivor runs already."""
    yield company.hire("victim")
    company.dismiss(but=1)


def second_attempt(company: Company, message: Message[Any], killed_at: float) -> Row:
    """Wait for the end of a job whose process was killed, and tell how long its second attempt had to wait."""
    row = company.wait_until_ended(message, PATIENCE_S)
    waited = row["started_at"].timestamp() - killed_at
    sys.stdout.write(f"second attempt {waited:.2f} s after the kill\n")
    assert 0 < waited <= 3, f"{waited:.2f} s"
    return row


def crashed_once_and_completed_in_quarantine(company: Company, row: Row, victim: Member) -> None:
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 2, 1, 2)
    (entry,) = row["errors"]
    assert (entry["attempt"], entry["kind"], entry["worker"]) == (1, "crashed", str(victim.id))
    assert company.worker(row["worker_id"])["kind"] == "quarantine"
    assert not row["suspect"]


def test_a_killed_workers_job_starts_again_in_quarantine_within_three_seconds(
    company: Company, survivor: Member, victim: Member
) -> None:
    gate = company.path()
    unharmed = company.send("hold", "survivor", until=gate)
    job = company.send("hold", until=company.path())
    wait_for(lambda: company.begun(unharmed, job), PATIENCE_S)
    at = victim.kill()
    row = second_attempt(company, job, at)
    crashed_once_and_completed_in_quarantine(company, row, victim)
    assert company.worker(victim.id)["death"] == "crashed"
    # The neighbour in another process has noticed nothing.
    assert company.job(unharmed)["status"] == RUNNING
    Path(gate).touch()
    row = company.wait_until_ended(unharmed)
    assert (row["attempts"], row["crashes"], row["errors"], row["worker_id"]) == (1, 0, [], survivor.id)


def test_a_killed_master_takes_its_worker_along_and_the_jobs_are_rescued(company: Company, victim: Member) -> None:
    job = company.send("hold", until=company.path())
    wait_for(lambda: company.begun(job), PATIENCE_S)
    at = time.time()
    os.kill(victim.master.pid, signal.SIGKILL)
    crashed_once_and_completed_in_quarantine(company, second_attempt(company, job, at), victim)
    wait_for(lambda: not psutil.pid_exists(victim.pid), 5, what="the orphan's end")


def test_jobs_that_were_fetched_and_not_started_lose_no_attempt(company: Company, victim: Member) -> None:
    held = [company.send("hold", until=company.path()) for _ in range(4)]
    wait_for(lambda: company.begun(*held), PATIENCE_S)
    fetched = [company.send("quick", n=n) for n in range(10)]
    acks = f"dramatiq:__acks__.{victim.id}.victim"
    wait_for(lambda: company.broker.client.scard(acks) == 8, PATIENCE_S, what="prefetched messages")
    victim.kill()
    company.hire("victim")
    for n, message in enumerate(fetched):
        row = company.wait_until_ended(message, PATIENCE_S)
        assert (row["status"], row["attempts"], row["crashes"], row["errors"]) == (COMPLETED, 1, 0, [])
        assert row["result"] == n
    for message in held:  # one after the other
        crashed_once_and_completed_in_quarantine(company, company.wait_until_ended(message, PATIENCE_S), victim)
    wait_for(lambda: not company.broker.client.exists(acks))


@pytest.mark.parametrize("how", ["exit", "segfault"])
def test_a_job_that_kills_its_process_fails_after_three_crashes_and_takes_no_neighbour_along(
    company: Company, victim: Member, how: str
) -> None:
    trigger = company.path()
    neighbours = [company.send("hold", until=company.path()) for _ in range(3)]
    culprit = company.send("die", how=how, after=trigger)
    wait_for(lambda: company.begun(*neighbours, culprit), PATIENCE_S)
    Path(trigger).touch()
    row = company.wait_until_ended(culprit, 2 * PATIENCE_S)
    assert (row["status"], row["attempts"], row["crashes"], row["error"]) == (FAILED, 3, 3, THREE_TIMES)
    assert [entry["kind"] for entry in row["errors"]] == ["crashed"] * 3
    first, *others = (company.worker(UUID(entry["worker"])) for entry in row["errors"])
    assert first["id"] == victim.id
    assert [worker["kind"] for worker in others] == ["quarantine", "quarantine"]
    assert len({worker["pid"] for worker in (first, *others)}) == 3
    for message in neighbours:
        crashed_once_and_completed_in_quarantine(company, company.wait_until_ended(message, PATIENCE_S), victim)


def test_a_terminated_worker_ends_its_job_and_signs_out(company: Company, victim: Member) -> None:
    gate = company.path()
    job = company.send("hold", until=gate)
    wait_for(lambda: company.begun(job), PATIENCE_S)
    os.kill(victim.master.pid, signal.SIGTERM)
    wait_for(lambda: company.worker(victim.id)["stopping_at"], PATIENCE_S, what="the announcement")
    unclaimed = company.send("quick", n=1)
    Path(gate).touch()
    assert victim.master.wait(PATIENCE_S) == 0
    row = company.job(job)
    assert (row["status"], row["attempts"], row["errors"], row["worker_id"]) == (COMPLETED, 1, [], victim.id)
    assert company.worker(victim.id)["death"] == "stopped"
    waiting = company.job(unclaimed)
    assert (waiting["status"], waiting["attempts"]) == (PENDING, 0)
    company.hire("victim")
    assert company.wait_until_ended(unclaimed)["attempts"] == 1


def test_a_worker_killed_while_it_was_stopping_has_not_crashed(company: Company, victim: Member) -> None:
    job = company.send("hold", until=company.path())
    wait_for(lambda: company.begun(job), PATIENCE_S)
    os.kill(victim.master.pid, signal.SIGTERM)
    wait_for(lambda: company.worker(victim.id)["stopping_at"], PATIENCE_S, what="the announcement")
    victim.kill()  # the supervisor's patience is over
    wait_for(lambda: company.job(job)["status"] == PENDING, PATIENCE_S, what="the rescue")
    row = company.job(job)
    assert (row["attempts"], row["crashes"], row["suspect"]) == (1, 0, False)
    assert [entry["kind"] for entry in row["errors"]] == ["lost"]
    company.hire("victim")
    assert company.wait_until_ended(job)["result"] == 2


def test_a_stop_that_reaches_master_and_worker_is_one_stop(company: Company, victim: Member) -> None:
    """Ctrl-C and systemd tell the whole group; the master passes it on as well."""
    gate = company.path()
    job = company.send("hold", until=gate)
    wait_for(lambda: company.begun(job), PATIENCE_S)
    marks = marks_folder() / f"{victim.id}.marks"
    os.kill(victim.pid, signal.SIGTERM)
    wait_for(lambda: read(marks).asked_to_stop, PATIENCE_S, interval=0.001, what="the first to be heard")
    os.kill(victim.master.pid, signal.SIGTERM)
    wait_for(lambda: company.worker(victim.id)["stopping_at"], PATIENCE_S, what="the announcement")
    Path(gate).touch()
    assert victim.master.wait(PATIENCE_S) == 0
    row = company.job(job)
    assert (row["status"], row["attempts"], row["errors"], row["worker_id"]) == (COMPLETED, 1, [], victim.id)
    assert company.worker(victim.id)["death"] == "stopped"


def test_a_worker_killed_before_it_could_say_that_it_stops_has_not_crashed(company: Company, victim: Member) -> None:
    """Dramatiq looks up to a second later at what the signal handler noted."""
    job = company.send("hold", until=company.path())
    wait_for(lambda: company.begun(job), PATIENCE_S)
    marks = marks_folder() / f"{victim.id}.marks"
    os.kill(victim.pid, signal.SIGTERM)
    wait_for(lambda: read(marks).asked_to_stop, PATIENCE_S, interval=0.001, what="the mark")
    victim.kill()
    wait_for(lambda: company.job(job)["status"] == PENDING, PATIENCE_S, what="the rescue")
    row = company.job(job)
    assert (row["crashes"], row["suspect"], [entry["kind"] for entry in row["errors"]]) == (0, False, ["lost"])
    assert company.worker(victim.id)["death"] == "stopped"
    company.hire("victim")
    assert company.wait_until_ended(job)["result"] == 2


def test_a_worker_that_lost_a_thread_to_a_deadline_drains_and_ends(company: Company, victim: Member) -> None:
    job = company.send("stuck", seconds=6)
    wait_for(lambda: company.begun(job), PATIENCE_S)
    # The deadline passes; the thread sits in its call; another thread or another worker runs the job.
    wait_for(lambda: company.worker(victim.id)["stopping_at"], PATIENCE_S, what="the announcement")
    company.hire("victim")
    row = company.wait_until_ended(job, PATIENCE_S)
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 2, 0, 2)
    assert [(entry["kind"], entry["message"]) for entry in row["errors"]] == [("lost", "deadline exceeded")]
    victim.master.wait(PATIENCE_S)
    assert company.worker(victim.id)["death"] == "stopped"
    assert "worker.lost_a_thread" in victim.log.read_text()
    assert company.job(job)["version"] == row["version"]  # what the stuck attempt said at its end was dropped


def test_a_killed_leaders_jobs_start_again_within_three_seconds(company: Company, victim: Member) -> None:
    """The leader keeps the quarantine child: both go, and another has to notice and to take over."""
    with company.engine.connect() as connection:
        leader = connection.exec_driver_sql("SELECT holder FROM callboard.leases WHERE name = 'maintenance'").scalar()
    row = company.worker(leader)
    queue = row["queues"][0]
    job = company.send("hold", queue, until=company.path())
    wait_for(lambda: company.begun(job), PATIENCE_S)
    # At that moment a quarantine child of the leader's is ready, as it always is after a few seconds.
    company.warm()
    at = time.time()
    os.kill(row["pid"], signal.SIGKILL)
    ended = second_attempt(company, job, at)
    assert (ended["status"], ended["attempts"], ended["crashes"]) == (COMPLETED, 2, 1)


def test_a_vanished_hosts_job_is_lost_and_runs_again_without_a_crash(stage: Stage) -> None:
    """No lock, no beat, no marks: nobody can say that the process crashed."""

    @stage.actor
    def work() -> str:
        return "elsewhere"

    worker, token = uuid4(), uuid4()
    message = work.send_with_options(delay=3_600_000)
    stage.execute(
        "INSERT INTO callboard.workers (id, host_id, hostname, pid, threads, queues, version)"
        " VALUES (:id, 'another-host', 'gone', 1, 1, '{default}', '-')", id=worker,
    )  # fmt: skip
    stage.execute(
        "UPDATE callboard.jobs SET status = 'RUNNING', attempts = 1, started_at = now(), worker_id = :worker,"
        " attempt_token = :token", worker=worker, token=token,
    )  # fmt: skip
    began = time.monotonic()
    stage.start()
    row = stage.run(message, timeout=15)
    waited = time.monotonic() - began
    sys.stdout.write(f"lost job ended {waited:.2f} s after the rescuer began to look\n")
    assert waited <= 7
    assert (row["status"], row["attempts"], row["crashes"], row["result"]) == (COMPLETED, 2, 0, "elsewhere")
    assert [(entry["kind"], entry["worker"]) for entry in row["errors"]] == [("lost", str(worker))]
    assert {w["id"]: w["death"] for w in stage.workers()}[worker] == "lost"


def test_a_silent_worker_that_holds_its_lock_is_alive_until_its_lease_ends(stage: Stage) -> None:
    """An actor that holds the interpreter's lock stops every thread of its process; that is no death."""

    @stage.actor
    def work() -> str:
        return "ran"

    stage.start()
    me = stage.broker.worker_id
    liveness: Any = stage.broker.liveness
    with stage.engine.connect() as other:
        key = other.exec_driver_sql("SELECT nextval(pg_get_serial_sequence('callboard.workers', 'lock_key'))").scalar()
        lock_class = liveness._lock_key()["lock_class"]
        assert other.exec_driver_sql(f"SELECT pg_try_advisory_lock({lock_class}, {key})").scalar()
        silent, gone = uuid4(), uuid4()
        for worker, age in ((silent, "30 seconds"), (gone, "90 seconds")):
            stage.execute(
                "INSERT INTO callboard.workers (id, lock_key, host_id, hostname, pid, threads, queues, version,"
                " beat_at) OVERRIDING SYSTEM VALUE VALUES (:id, :key, 'x', 'x', 1, 1, '{x}', '-',"
                " now() - cast(:age AS interval))", id=worker, key=key, age=age,
            )  # fmt: skip
        wait_for(lambda: {w["id"]: w["death"] for w in stage.workers()}[gone] == "lost", 8)
        assert {w["id"]: w["death"] for w in stage.workers()} == {me: None, silent: None, gone: "lost"}
