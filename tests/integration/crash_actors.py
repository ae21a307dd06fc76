"""Actors for ``python -m dramatiq tests.integration.crash_actors``: they hold on, and they die."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import dramatiq

import actors
from actors.runtime import claiming, current_job

# Seconds past its time limit after which a stuck job is taken back; half a minute in earnest.
claiming.OVERTIME_S = 0.5

#: Each worker of the tests listens to one of these.
for queue in ("survivor", "victim"):
    actors.broker.declare_queue(queue)


def note(what: str) -> None:
    """Leave evidence outside of the ledger: job, attempt, process, what."""
    job = current_job()
    with Path(os.environ["EVIDENCE"]).open("a") as file:
        file.write(f"{job.id} {job.attempt} {os.getpid()} {what}\n")


@dramatiq.actor(min_backoff=10, max_backoff=20)
def hold(until: str) -> int:
    """The first attempt lasts until a file appears; any other ends at once."""
    note("begin")
    while current_job().attempt == 1 and not Path(until).exists():
        time.sleep(0.02)
    note("end")
    return current_job().attempt


@dramatiq.actor(min_backoff=10, max_backoff=20)
def quick(n: int) -> int:
    """Return what it got."""
    note("begin")
    return n


@dramatiq.actor(min_backoff=10, max_backoff=20)
def die(how: str, after: str) -> None:
    """Kill the process, in every attempt, once a file is there."""
    note("begin")
    while not Path(after).exists():
        time.sleep(0.02)
    if how == "exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(time_limit=200, min_backoff=10, max_backoff=20)
def stuck(seconds: float) -> int:
    """The first attempt sits in a call that no time limit can interrupt."""
    note("begin")
    if current_job().attempt == 1:
        time.sleep(seconds)
    note("end")
    return current_job().attempt
