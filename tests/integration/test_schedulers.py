"""Schedulers as processes: killed at any moment, without Postgres, without Redis; each tick still is one job."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, func, select, text

from actors.runtime.cron import cron
from actors.runtime.ticker import Ticker
from models.rows import all_rows
from models.tables import jobs, schedules, ticks
from tests.integration import cron_support, worker_support
from tests.integration.cron_support import MONDAY, Stand
from tests.integration.scheduler_process import EPOCH
from tests.support import wait_for
from tests.web_server import ROOT

own_valkey = worker_support.own_valkey
stand = cron_support.stand
#: The command ``periodiq``.
PERIODIQ = "import sys; from periodiq import entrypoint; sys.argv[0] = 'periodiq'; entrypoint()"
#: Ticks of the accelerated test, and real seconds that one of its minutes takes.
TICKS = 200
MINUTE_S = 0.05


class Schedulers:
    """Processes that are started, killed and started again; none is left behind."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
        self._environment = {**inherited, **environment}
        self._log = log
        self._arguments = arguments
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self, name: str, kind: str) -> None:
        command = [sys.executable, "-m", "tests.integration.scheduler_process", kind, *self._arguments]
        with self._log.open("ab") as log:
            self.running[name] = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()
        self.kills += 1


def count(engine: Engine, statement: Any) -> int:
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def test_three_schedulers_killed_at_random_make_each_of_200_ticks_once(
    environment: dict[str, str], engine: Engine, tmp_path: Path
) -> None:
    made = select(func.count()).select_from(ticks).where(ticks.c.outcome == "sent")
    kinds = {"one": "ticker", "two": "periodiq", "three": "ticker"}
    began, draw = time.time(), random.Random(16)
    schedulers = Schedulers(environment, tmp_path / "log", str(began), str(60 / MINUTE_S))
    try:
        for name, kind in kinds.items():
            schedulers.start(name, kind)
        wait_for(lambda: count(engine, made) > 0, 60, what="the first tick")
        while (so_far := count(engine, made)) < TICKS:
            name = draw.choice(sorted(kinds))
            schedulers.kill(name)
            schedulers.start(name, kinds[name])
            further = so_far + draw.randint(1, 25)
            wait_for(lambda further=further: count(engine, made) >= further, 60, what="more ticks")
    finally:
        for name in list(schedulers.running):
            schedulers.kill(name)
    with engine.connect() as connection:
        ticked = all_rows(connection.execute(select(ticks).order_by(ticks.c.tick_at)))
        sent = all_rows(connection.execute(select(jobs.c.id, jobs.c.options)))
    assert "Traceback" not in (tmp_path / "log").read_text()
    first = ticked[0]["tick_at"]
    assert [tick["tick_at"] for tick in ticked] == [first + timedelta(minutes=n) for n in range(len(ticked))]
    assert {tick["outcome"] for tick in ticked} == {"sent"}
    assert sorted(job["options"]["tick"]["at"] for job in sent) == [tick["tick_at"].isoformat() for tick in ticked]
    assert {job["id"] for job in sent} == {tick["job_id"] for tick in ticked}
    assert first > EPOCH
    print(f"{len(ticked)} ticks, {len(sent)} jobs, 3 schedulers, {schedulers.kills} kills")


@contextmanager
def closed_database(postgres_url: str, database_url: str) -> Iterator[None]:
    """While this lasts, nobody is connected to the test's database, and nobody gets in."""
    name = urlsplit(database_url).path.removeprefix("/")
    change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(change.format(sql.Identifier(name), sql.Literal(False)))
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            server.execute(change.format(sql.Identifier(name), sql.Literal(True)))


# -- either alone is enough


def test_a_worker_alone_makes_ticks(engine: Engine) -> None:
    with worker_support.stage_on(engine) as stage:
        clock = cron_support.Clock()
        stage.broker.ticker = Ticker(stage.broker, clock)
        stage.actor(lambda: "made", actor_name="act", periodic=cron("0 3 * * *"))
        stage.start()
        wait_for(lambda: count(engine, select(func.count()).select_from(schedules)), what="its declaration")
        clock.now = MONDAY + timedelta(hours=3)
        (row,) = wait_for(lambda: stage.jobs("act"))
        assert stage.wait_until_ended(row["id"])["result"] == "made"


def test_periodiq_alone_makes_what_was_missed_although_postgres_is_away_when_it_starts(
    environment: dict[str, str], engine: Engine, postgres_url: str, database_url: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    missed = {"last_tick_at": now - timedelta(minutes=3), "next_tick_at": now - timedelta(minutes=2), "missed": "all"}
    cron_support.declare(engine, "default", "minutely", actor="minutely", expression="* * * * *", kwargs="{}", **missed)
    engine.dispose()  # or the pool would give out a connection that was cut
    log = tmp_path / "log"
    command = [sys.executable, "-c", PERIODIQ, "actors", "tests.long.minutely_actors"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
    with closed_database(postgres_url, database_url), log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**inherited, **environment}, stdout=output, stderr=output)
        wait_for(lambda: "tick.waits" in log.read_text(), 30)
        assert process.poll() is None
    try:
        made = select(func.count()).select_from(ticks)
        wait_for(lambda: count(engine, made) >= 3, 30)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert count(engine, select(func.count()).select_from(jobs)) == count(engine, made)
    assert "Unhandled error" not in log.read_text()


# -- an error at a tick


@contextmanager
def periodiq_sends(stand: Stand) -> Iterator[Event]:
    """periodiq's send at a tick, in a thread; the event says that it came back without an error."""
    came_back = Event()

    def send() -> None:
        stand.broker.actors["act"].send_with_options(scheduled_at=stand.clock.now.isoformat())
        came_back.set()

    thread = Thread(target=send)
    thread.start()
    yield came_back
    thread.join(30)
    assert came_back.is_set()


def test_postgres_away_at_a_tick_ends_no_scheduler_and_loses_no_tick(
    stand: Stand, postgres_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand.actor(cron("0 * * * *", missed="skip"))
    stand.at()
    stand.clock.now = MONDAY + timedelta(hours=1)
    with ExitStack() as outage:
        outage.enter_context(closed_database(postgres_url, database_url))
        with periodiq_sends(stand) as came_back:
            wait_for(lambda: worker_support.events(caplog, "tick.waits"), 20)
            assert not came_back.is_set()
            outage.close()
            assert came_back.wait(20)
    assert stand.sent() == ["01:00"]


def test_redis_away_at_a_tick_ends_no_scheduler_and_loses_no_tick(own_valkey: Any, stand: Stand) -> None:
    assert stand.broker.settings.redis_url == own_valkey.url
    stand.actor(cron("0 * * * *", missed="skip"))
    stand.at()
    own_valkey.stop()
    stand.clock.now = MONDAY + timedelta(hours=1)
    with periodiq_sends(stand) as came_back:
        assert came_back.wait(20)
    assert stand.sent() == ["01:00"]
    assert [row["status"] for row in stand.rows()] == ["PENDING"], "the relay rings when Redis is back"


def test_a_schedule_that_somebody_holds_is_left_to_them(stand: Stand) -> None:
    """And if they are killed before their commit, the server ends their transaction: the tick is due as before."""
    stand.actor(cron("0 * * * *"))
    stand.at()
    with stand.transaction() as connection:
        connection.execute(text("SELECT * FROM callboard.schedules FOR UPDATE"))
        assert stand.at(hours=1) == 0
    assert stand.at(hours=1) == 1
