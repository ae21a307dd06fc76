"""Five ticks of the real clock: two ``periodiq`` and a worker, killed and started again at random.

Takes six minutes, so it is not collected by itself: ``./callboard test tests/long/real_ticks.py -s``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from models.rows import all_rows
from models.tables import jobs, ticks
from tests.integration.test_schedulers import PERIODIQ
from tests.support import wait_for
from tests.web_server import ROOT

TICKS = 5
MODULES = ("actors", "tests.long.minutely_actors")
COMMANDS: dict[str, Sequence[str]] = {
    "periodiq one": ("-c", PERIODIQ, *MODULES),
    "periodiq two": ("-c", PERIODIQ, *MODULES),
    "worker": ("-m", "dramatiq", *MODULES, "-p", "1", "-t", "2"),
}


@pytest.mark.timeout(480)
def test_five_real_ticks_are_made_once(environment: dict[str, str], engine: Engine, tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
    running: dict[str, subprocess.Popen[bytes]] = {}
    draw, kills = random.Random(), 0

    def start(name: str) -> None:
        with (tmp_path / name).open("ab") as log:
            running[name] = subprocess.Popen(
                [sys.executable, *COMMANDS[name]], cwd=ROOT, env={**inherited, **environment}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def kill(name: str) -> None:
        process = running.pop(name)
        os.killpg(process.pid, 9)  # the worker's master and its child
        process.wait()

    def ticked() -> list[dict[str, object]]:
        with engine.connect() as connection:
            return all_rows(connection.execute(select(ticks).order_by(ticks.c.tick_at)))

    try:
        for name in COMMANDS:
            start(name)
        deadline = time.monotonic() + (TICKS + 1.5) * 60
        while len(ticked()) < TICKS and time.monotonic() < deadline:
            name = draw.choice(sorted(COMMANDS))
            kill(name)
            kills += 1
            start(name)
            again = time.monotonic() + draw.uniform(3, 12)
            wait_for(lambda again=again: time.monotonic() > again or len(ticked()) >= TICKS, 20, interval=0.5)
        logs = {name: (tmp_path / name).read_text() for name in COMMANDS}
        made = ticked()
        wait_for(lambda: all(row["status"] == "COMPLETED" for row in _jobs(engine)), 30, what="every job to end")
    finally:
        for name in list(running):
            kill(name)
    found = _jobs(engine)
    print(f"{len(made)} real ticks, {len(found)} jobs, {kills} kills: {[str(tick['tick_at']) for tick in made]}")
    assert len(made) >= TICKS
    first = made[0]["tick_at"]
    assert [tick["tick_at"] for tick in made] == [first + timedelta(minutes=n) for n in range(len(made))]
    assert [tick["outcome"] for tick in made] == ["sent"] * len(made)
    assert {job["id"] for job in found} == {tick["job_id"] for tick in made}
    assert len(found) == len(made)
    assert not any("Unhandled error" in log for log in logs.values())


def _jobs(engine: Engine) -> list[dict[str, object]]:
    with engine.connect() as connection:
        return all_rows(connection.execute(select(jobs).where(jobs.c.actor == "minutely")))
