"""``./callboard jobs``: what a person at a terminal sees of jobs and does to them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from actors.runtime.feed import stream_key
from models.settings import Settings
from tests.integration.ledger_support import Book
from tests.support import callboard

pytestmark = pytest.mark.once

ENTRY = {
    "attempt": 1,
    "kind": "failed",
    "class": "RequestFailed",
    "message": "127.0.0.1: cannot connect",
    "traceback": 'Traceback (most recent call last):\n  File "webhook.py", line 7, in call\nRequestFailed: 127.0.0.1',
    "worker": str(uuid4()),
    "started_at": "2026-11-25T03:00:00Z",
    "ended_at": "2026-11-25T03:00:01Z",
}


@pytest.fixture
def failed(book: Book) -> UUID:
    """A job that failed for good, with all that is known of it."""
    job = book.job(actor="webhook", kwargs='{"url": "https://a.example/"}', max_attempts=1)
    book.change(
        job,
        status="FAILED",
        attempts=1,
        error="RequestFailed: 127.0.0.1: cannot connect",
        errors=[ENTRY],
        log=[{"at": 1_764_039_601.0, "attempt": 1, "text": "resolved to 127.0.0.1"}],
    )
    return job


def test_the_list_shows_and_filters(book: Book, failed: UUID, environment: dict[str, str]) -> None:
    waiting = book.job(actor="sleep", queue="slow")
    other = book.job(tenant_id=book.tenant("acme"))
    everything = callboard("jobs", "list", **environment).stdout
    head, *lines = everything.splitlines()
    assert head.split() == ["id", "type", "status", "attempts", "queue", "updated", "error"]
    assert [line.split()[0] for line in lines] == [str(waiting), str(failed)]
    assert "RequestFailed: 127.0.0.1: cannot connect" in lines[1]
    for arguments, shown in (
        (("--status", "failed"), failed),
        (("--queue", "slow"), waiting),
        (("--type", "webhook"), failed),
        (("--limit", "1"), waiting),
        (("--tenant", "acme"), other),
    ):
        told = json.loads(callboard("jobs", "list", "--json", *arguments, **environment).stdout)
        assert [job["id"] for job in told["jobs"]] == [str(shown)], arguments


def test_show_tells_all_that_is_known(failed: UUID, environment: dict[str, str]) -> None:
    shown = callboard("jobs", "show", str(failed), **environment).stdout
    for part in (
        "FAILED  (attempts 1 of 1, crashes 0)",
        '"https://a.example/"',
        "attempt 1 failed at 2026-11-25T03:00:01Z: RequestFailed: 127.0.0.1: cannot connect",
        '  File "webhook.py", line 7, in call',
        ENTRY["worker"],
        "(attempt 1) resolved to 127.0.0.1",
        f"./callboard jobs retry {failed}",
    ):
        assert str(part) in shown
    told = json.loads(callboard("jobs", "show", str(failed), "--json", **environment).stdout)
    assert (told["id"], told["errors"][0]["class"]) == (str(failed), "RequestFailed")


def test_retry_and_cancel_change_the_row_and_tell_the_browsers(
    book: Book, failed: UUID, environment: dict[str, str], settings: Settings, redis: Any
) -> None:
    key = stream_key(settings)
    assert redis.xlen(key) == 0
    done = callboard("jobs", "retry", str(failed), **environment)
    assert (done.returncode, done.stdout) == (0, f"{failed} is PENDING\n")
    row = book.row(failed)
    assert (row["status"], row["attempts"], row["max_attempts"]) == ("PENDING", 1, 2)
    assert redis.xlen(key) == 1
    done = callboard("jobs", "cancel", str(failed), **environment)
    assert (done.returncode, done.stdout) == (0, f"{failed} is CANCELLED\n")
    assert book.row(failed)["status"] == "CANCELLED"
    assert redis.xlen(key) == 2
    running, _ = book.running()
    done = callboard("jobs", "cancel", str(running), **environment)
    assert done.stdout == f"{running} is RUNNING, its attempt was asked to stop\n"
    assert book.row(running)["cancel_requested_at"]


def test_what_the_state_forbids_is_refused_with_the_reason(
    book: Book, failed: UUID, environment: dict[str, str], redis: Any, settings: Settings
) -> None:
    waiting = book.job(unique_key="k", unique_scope="live")
    holding = book.job()
    book.change(holding, status="CANCELLED", unique_key="k", unique_scope="live")
    nobody = uuid4()
    for arguments, why in (
        (("cancel", str(failed)), "The job is FAILED: cancel needs PENDING or RUNNING; nothing was changed."),
        (("retry", str(waiting)), "The job is PENDING: retry needs CANCELLED or FAILED; nothing was changed."),
        (("retry", str(holding)), "Another job holds this job's unique key now; nothing was changed."),
        (("retry", str(nobody)), f"there is no job {nobody}: never sent here, rolled back, or past its retention"),
        (("show", "7"), "7 is no job id (a UUID)"),
    ):
        done = callboard("jobs", *arguments, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"callboard: {why}\n")
    assert redis.xlen(stream_key(settings)) == 0


def test_without_tables_it_says_what_to_do(empty_database_url: str, environment: dict[str, str]) -> None:
    done = callboard("jobs", "list", **{**environment, "DATABASE_URL": empty_database_url})
    assert (done.returncode, done.stderr) == (
        1,
        "callboard: the database has no tables of ours yet: run ./callboard migrate\n",
    )
