"""What an operator reads in the log: whom a worker talks to, and what becomes of every attempt that failed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration import worker_support
from tests.integration.worker_support import Stage, events
from tests.support import wait_for
from tests.web_server import web_server

pytestmark = pytest.mark.once

stage = worker_support.stage


class Broken(Exception):
    """What these actors raise."""


def test_a_worker_says_whom_it_talks_to_and_no_password(
    stage: Stage, caplog: pytest.LogCaptureFixture, environment: dict[str, str]
) -> None:
    caplog.set_level("INFO", "callboard")

    @stage.actor
    def work() -> None: ...

    stage.start()
    (postgres,) = wait_for(lambda: events(caplog, "worker.signed_in"))
    (redis,) = wait_for(lambda: events(caplog, "redis.connected"))
    database, cache = urlsplit(environment["DATABASE_URL"]), urlsplit(environment["REDIS_URL"])
    assert f"postgres='{database.hostname}:{database.port}{database.path}'" in postgres
    assert re.search(r"server_version='\d+", postgres)
    assert f"redis='{cache.hostname}:{cache.port}{cache.path}'" in redis
    assert re.search(r"server_version='\d+\.\d+", redis)
    for secret in (database.password, cache.password):
        assert not secret or secret not in caplog.text


def test_every_failed_attempt_says_which_job_why_and_what_comes_next(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "callboard.finish")

    @stage.actor(max_retries=1)
    def never() -> None:
        raise Broken("no such café")

    @stage.actor
    def fine() -> None: ...

    stage.start()
    message, other = never.send(), fine.send()
    stage.run(message)
    stage.run(other)
    first, last = wait_for(lambda: (lines := events(caplog, "job.attempt_failed")) and len(lines) == 2 and lines)
    for number, line in enumerate((first, last), 1):
        assert (
            f"job_id='{message.message_id}' tenant_id='default' actor='never' attempt={number} max_attempts=2" in line
        )
        assert "reason='Broken: no such café'" in line
    assert "status='PENDING'" in first
    assert "retry_in_s=0.0" in first
    assert "status='FAILED'" in last
    assert "retry_in_s" not in last
    (ended,) = [line for line in wait_for(lambda: events(caplog, "job.ended")) if other.message_id in line]
    assert "status='COMPLETED'" in ended


def test_the_web_process_shows_lines_of_level_info(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    with web_server(environment, log):
        wait_for(lambda: "event='feed.following'" in log.read_text(), what="a line of level INFO")
    assert log.read_text().count("event='feed.following'") == 1
