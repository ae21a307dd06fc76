"""The ledger's verbs: what each does, what it refuses, and that nobody but the holder of an attempt ends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from models import ledger
from models.arrays import parameters
from models.engine import transaction
from models.ledger import CRASH_CAP, ERRORS_KEPT, LOG_KEPT
from models.rows import all_rows
from models.state import TRANSITIONS, Status
from tests.integration import ledger_support
from tests.integration.ledger_support import NEW, Book, Row, entry

module_database, database_url = ledger_support.module_database, ledger_support.database_url

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = (s.value for s in Status)


def now(book: Book) -> datetime:
    """The database's clock."""
    (row,) = book.execute(text("SELECT clock_timestamp() AS now"))
    moment: datetime = row["now"]
    return moment


# -- enqueue


def test_a_new_job_is_pending_and_due(book: Book) -> None:
    (told,) = book.enqueue()
    row = book.row(told["id"])
    assert (row["status"], row["attempts"], row["max_attempts"], row["crashes"]) == (PENDING, 0, 3, 0)
    assert (row["version"], row["suspect"], row["errors"], row["log"]) == (1, False, [], [])
    assert row["run_at"] <= now(book)
    assert (row["dispatch"], row["offered_at"], told["dispatch"]) == (0, None, 0)
    assert told["version"] == 1


def test_the_same_id_again_changes_nothing(book: Book) -> None:
    job = book.job(actor="first")
    assert book.enqueue(id=[job], actor="second") == []
    assert [row["actor"] for row in book.rows()] == ["first"]


def test_the_same_id_twice_in_one_statement_is_one_job(book: Book) -> None:
    job = uuid4()
    assert [row["id"] for row in book.enqueue(id=[job, job])] == [job]


def test_an_ended_job_is_not_begun_again_by_its_id(book: Book) -> None:
    job, token = book.running()
    book.complete(job, token)
    assert book.enqueue(id=[job]) == []
    assert book.row(job)["status"] == COMPLETED


def test_an_unknown_tenant_gets_no_row_and_its_neighbours_do(book: Book) -> None:
    assert [r["tenant_id"] for r in book.enqueue(tenant_id=["nobody", "default"])] == ["default"]


def test_what_is_due_and_rung_for_is_marked_as_offered(book: Book) -> None:
    due, later = book.enqueue(offer=True, delay_ms=[None, 60_000])
    assert (due["dispatch"], later["dispatch"]) == (1, 0)
    assert book.row(due["id"])["offered_at"] is not None
    assert book.row(later["id"])["offered_at"] is None


def test_delay_and_run_at_say_when(book: Book) -> None:
    at = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    assert book.row(book.job(run_at=at.isoformat()))["run_at"] == at
    row = book.row(book.job(delay_ms=90_000.5))
    assert row["run_at"] - row["created_at"] == timedelta(milliseconds=90_000.5)


def test_arguments_are_kept_byte_for_byte(book: Book) -> None:
    """json, not jsonb: 1e22 stays a float, -0.0 keeps its sign, keys their order."""
    job = book.job(args="[1e22, -0.0, 12345678901234567890]", kwargs='{"b": 1, "a": {"z": 0, "y": 0}}')
    row = book.row(job)
    assert [type(v) for v in row["args"]] == [float, float, int]
    assert str(row["args"][1]) == "-0.0"
    assert json.dumps(row["kwargs"]) == '{"b": 1, "a": {"z": 0, "y": 0}}'


@pytest.mark.parametrize(("priority", "band"), [(-10, -1), (-1, -1), (0, 0), (1, 1), (10, 1)])
def test_the_band_follows_the_priority(book: Book, priority: int, band: int) -> None:
    assert book.row(book.job(priority=priority))["band"] == band


# -- claim


def test_a_claim_starts_an_attempt(book: Book) -> None:
    job, worker, token = book.job(), book.worker(), uuid4()
    (told,) = book.claim(job, worker, token, limit_ms=60_000)
    row = book.row(job)
    assert (row["status"], row["attempts"], row["version"]) == (RUNNING, 1, 2)
    assert (row["attempt_token"], row["worker_id"]) == (token, worker)
    assert row["deadline_at"] - row["started_at"] == timedelta(minutes=1)
    assert (told["attempt_token"], told["max_attempts"], told["started_at"]) == (token, 3, row["started_at"])


def test_the_same_token_again_is_told_the_same_and_changes_nothing(book: Book) -> None:
    """A claim whose answer got lost is asked again."""
    job, worker, token = book.job(), book.worker(), uuid4()
    (first,) = book.claim(job, worker, token)
    (again,) = book.claim(job, worker, token)
    assert {**again, "updated_at": None} == {**first, "updated_at": None}
    assert book.row(job)["attempts"] == 1


def test_another_token_is_refused_while_the_lease_lives(book: Book) -> None:
    job, token = book.running()
    assert book.claim(job, book.worker(), uuid4()) == []
    assert book.row(job)["attempt_token"] == token


def test_a_dead_worker_claims_nothing(book: Book) -> None:
    job, worker, token = book.job(), book.worker(dead=True), uuid4()
    assert book.claim(job, worker, token) == []
    assert book.claim(job, uuid4(), token) == []
    assert book.row(job)["status"] == PENDING


def test_a_worker_declared_dead_is_not_told_of_its_own_claim(book: Book) -> None:
    worker, token = book.worker(), uuid4()
    job = book.job()
    book.claim(job, worker, token)
    book.kill(worker)
    assert book.claim(job, worker, token) == []


def test_what_is_not_due_is_not_claimed(book: Book) -> None:
    assert book.claim(book.job(delay_ms=60_000), book.worker()) == []


def test_suspects_run_in_quarantine_and_nothing_else_does(book: Book) -> None:
    suspect, other = book.job(), book.job()
    book.change(suspect, suspect=True)
    worker = book.worker()
    assert book.claim(suspect, worker) == []
    assert book.claim(other, worker, quarantine=True) == []
    assert len(book.claim(suspect, worker, quarantine=True)) == 1
    assert len(book.claim(other, worker)) == 1


def test_without_attempts_left_nothing_is_claimed(book: Book) -> None:
    spent, endless = book.job(max_attempts=2), book.job(max_attempts=None)
    book.change(spent, attempts=2)
    book.change(endless, attempts=1000)
    assert book.claim(spent, book.worker()) == []
    assert book.claim(endless, book.worker())[0]["attempts"] == 1001


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
def test_what_has_ended_is_not_claimed(book: Book, status: str) -> None:
    job = book.job()
    book.change(job, status=status)
    assert book.claim(job, book.worker()) == []


def test_a_row_that_somebody_holds_is_passed_over_at_once(book: Book) -> None:
    held, free = book.job(), book.job()
    with book.transaction() as connection:
        connection.execute(text("SELECT 1 FROM callboard.jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert [row["id"] for row in book.claim([held, free], book.worker())] == [free]


def test_many_claimers_one_winner(book: Book) -> None:
    job, worker = book.job(), book.worker()
    won: list[Row] = []
    together(*[lambda: won.extend(book.claim(job, worker)) for _ in range(8)])
    assert len(won) == 1
    assert book.row(job)["attempts"] == 1
    assert book.row(job)["attempt_token"] == won[0]["attempt_token"]


def test_a_claim_clears_the_last_attempts_progress(book: Book) -> None:
    job, token = book.running()
    book.report(job, token, progress='{"current": 1}')
    book.fail(job, token)
    assert book.claim(job, book.worker())[0]["progress"] is None


# -- complete


def test_a_completed_job_keeps_its_result(book: Book) -> None:
    job, token = book.running()
    (told,) = book.complete(job, token, result='{"n": 1e22}', progress='{"current": 3}')
    row = book.row(job)
    assert (row["status"], row["result"], row["error"]) == (COMPLETED, {"n": 1e22}, None)
    assert row["progress"] == told["progress"] == {"current": 3}
    assert row["finished_at"] is not None
    assert row["deadline_at"] is None
    assert told["status"] == COMPLETED


def test_a_result_that_could_not_be_kept_leaves_the_job_completed(book: Book) -> None:
    job, token = book.running()
    book.complete(job, token, result=None, result_error="too large")
    row = book.row(job)
    assert (row["status"], row["result"], row["result_error"]) == (COMPLETED, None, "too large")


def test_the_error_of_an_earlier_attempt_is_gone_from_the_line_but_kept_in_the_list(book: Book) -> None:
    job, token = book.running()
    book.fail(job, token)
    second = uuid4()
    book.claim(job, book.worker(), second)
    book.complete(job, second)
    row = book.row(job)
    assert row["error"] is None
    assert [e["message"] for e in row["errors"]] == ["boom"]


# -- the fence: only the token of the running attempt ends it

ENDINGS: dict[str, Callable[[Book, UUID, UUID], list[Row]]] = {
    "complete": lambda book, job, token: book.complete(job, token),
    "retry": lambda book, job, token: book.fail(job, token, "retry"),
    "fail": lambda book, job, token: book.fail(job, token, "fail"),
    "cancelled": lambda book, job, token: book.fail(job, token, "cancel"),
    "give_back": lambda book, job, token: book.give_back(job, token),
    "report_progress": lambda book, job, token: book.report(job, token, progress="{}"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_wrong_token_changes_nothing(book: Book, ending: str) -> None:
    job, _ = book.running()
    before = book.row(job)
    assert ENDINGS[ending](book, job, uuid4()) == []
    assert book.row(job) == before


@pytest.mark.parametrize("status", [PENDING, COMPLETED, FAILED, CANCELLED])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_right_token_changes_nothing_once_the_attempt_is_over(book: Book, ending: str, status: str) -> None:
    job, token = book.running()
    book.change(job, status=status)
    before = book.row(job)
    assert ENDINGS[ending](book, job, token) == []
    assert book.row(job) == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_attempt_whose_job_was_taken_back_and_claimed_anew_changes_nothing(book: Book, ending: str) -> None:
    worker = book.worker()
    job, zombie = book.running(worker)
    book.kill(worker)
    book.rescue()
    book.claim(job, book.worker(), uuid4())
    before = book.row(job)
    assert ENDINGS[ending](book, job, zombie) == []
    assert book.row(job) == before


# -- fail_attempt


def test_a_retry_waits_and_is_offered_again(book: Book) -> None:
    job, token = book.running(offer=True)
    assert book.row(job)["offered_at"] is not None
    asked = now(book)
    (told,) = book.fail(job, token, delay_ms=5_000)
    row = book.row(job)
    assert (told["status"], row["status"], row["attempts"]) == (PENDING, PENDING, 1)
    assert timedelta(seconds=5) <= row["run_at"] - asked < timedelta(seconds=7)
    assert (row["offered_at"], row["finished_at"], row["deadline_at"]) == (None, None, None)
    assert (row["error"], [e["message"] for e in row["errors"]]) == ("boom", ["boom"])
    assert row["dispatch"] == 1, "the next offer gets the next number"


def test_the_last_attempt_is_the_last(book: Book) -> None:
    job, token = book.running(max_attempts=1)
    (told,) = book.fail(job, token, delay_ms=5_000)
    row = book.row(job)
    assert told["status"] == row["status"] == FAILED
    assert row["finished_at"] is not None


def test_without_a_cap_there_is_always_another_attempt(book: Book) -> None:
    job, token = book.running(max_attempts=None)
    book.change(job, attempts=500)
    assert book.fail(job, token)[0]["status"] == PENDING


def test_a_permanent_error_fails_whatever_is_left(book: Book) -> None:
    job, token = book.running(max_attempts=10)
    assert book.fail(job, token, "fail")[0]["status"] == FAILED


def test_a_requested_cancel_wins_over_a_retry(book: Book) -> None:
    job, token = book.running()
    book.cancel(job)
    (told,) = book.fail(job, token, "retry", delay_ms=5_000)
    assert told["status"] == CANCELLED
    assert book.row(job)["finished_at"] is not None


def test_a_cancel_that_the_actor_noticed_ends_the_job(book: Book) -> None:
    job, token = book.running(max_attempts=10)
    assert book.fail(job, token, "cancel")[0]["status"] == CANCELLED


def test_the_latest_fifty_errors_are_kept(book: Book) -> None:
    worker = book.worker()
    job = book.job(max_attempts=None)
    for number in range(ERRORS_KEPT + 3):
        token = uuid4()
        book.claim(job, worker, token)
        book.fail(job, token, entry=entry(message=str(number)))
    kept = [e["message"] for e in book.row(job)["errors"]]
    assert kept == [str(n) for n in range(3, ERRORS_KEPT + 3)]


# -- give_back


def test_an_attempt_that_is_given_back_does_not_count(book: Book) -> None:
    job, token = book.running(offer=True, max_attempts=1)
    asked = now(book)
    (told,) = book.give_back(job, token, 3_000)
    row = book.row(job)
    assert (told["status"], row["status"], row["attempts"], row["errors"]) == (PENDING, PENDING, 0, [])
    assert timedelta(seconds=3) <= row["run_at"] - asked < timedelta(seconds=5)
    assert (row["offered_at"], row["deadline_at"], row["finished_at"]) == (None, None, None)


def test_a_give_back_may_leave_a_note(book: Book) -> None:
    job, token = book.running()
    book.give_back(job, token, note=entry(kind="released"))
    assert [e["kind"] for e in book.row(job)["errors"]] == ["released"]


def test_a_given_back_job_that_was_to_be_cancelled_is_cancelled(book: Book) -> None:
    job, token = book.running()
    book.cancel(job)
    assert book.give_back(job, token)[0]["status"] == CANCELLED
    assert book.row(job)["finished_at"] is not None


# -- unique slots

SCOPES: dict[str, dict[str, Any]] = {
    "live": {"unique_key": "k", "unique_scope": "live"},
    "waiting": {"unique_key": "k", "unique_scope": "waiting"},
    "period": {"unique_key": "k", "unique_scope": "period", "unique_for_ms": 3_600_000},
}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_taken_slot_keeps_the_second_out(book: Book, scope: str) -> None:
    job = book.job(**SCOPES[scope])
    assert book.enqueue(**SCOPES[scope]) == []
    assert book.row(job)["unique_slot"] == "k"


def test_slots_are_a_tenants_own(book: Book) -> None:
    book.job(**SCOPES["live"])
    assert len(book.enqueue(**SCOPES["live"], tenant_id=book.tenant("other"))) == 1


def test_one_bulk_insert_with_the_same_key_twice_makes_one_job(book: Book) -> None:
    assert len(book.enqueue(unique_key=["k", "k", "l"], unique_scope="live")) == 2


@pytest.mark.parametrize(("scope", "taken_while_running"), [("live", True), ("waiting", False), ("period", True)])
def test_a_claim_frees_a_slot_of_scope_waiting_only(book: Book, scope: str, taken_while_running: bool) -> None:
    book.running(**SCOPES[scope])
    assert (book.enqueue(**SCOPES[scope]) == []) is taken_while_running


ENDED: dict[str, Callable[[Book, UUID, UUID], object]] = {
    "completed": lambda book, job, token: book.complete(job, token),
    "failed": lambda book, job, token: book.fail(job, token, "fail"),
    "cancelled": lambda book, job, token: book.fail(job, token, "cancel"),
}


@pytest.mark.parametrize(("scope", "free"), [("live", True), ("waiting", True), ("period", False)])
@pytest.mark.parametrize("end", ENDED)
def test_the_end_frees_every_slot_but_a_period(book: Book, scope: str, free: bool, end: str) -> None:
    job, token = book.running(**SCOPES[scope])
    ENDED[end](book, job, token)
    assert (book.row(job)["unique_slot"] is None) is free
    assert (len(book.enqueue(**SCOPES[scope])) == 1) is free
    assert book.row(job)["unique_key"] == "k", "kept for the reader"


@pytest.mark.parametrize("scope", ["live", "period"])
def test_a_retry_keeps_its_slot(book: Book, scope: str) -> None:
    job, token = book.running(**SCOPES[scope])
    book.fail(job, token)
    assert book.row(job)["unique_slot"] == "k"


def test_a_retry_does_not_take_a_slot_of_scope_waiting_again(book: Book) -> None:
    """Another job may wait under that key by now: the retry must not fail because of it."""
    job, token = book.running(**SCOPES["waiting"])
    other = book.job(**SCOPES["waiting"])
    assert book.fail(job, token)[0]["status"] == PENDING
    assert [book.row(j)["unique_slot"] for j in (job, other)] == [None, "k"]


def test_a_period_frees_its_slot_by_expiry_and_not_before(book: Book) -> None:
    job = book.job(**SCOPES["period"])
    slots = parameters("slot", tenant_id=["default"], key=["k"])
    book.execute(ledger.free_expired_slots(), slots)
    assert book.row(job)["unique_slot"] == "k"
    book.change(job, unique_until=text("now()"))
    book.execute(ledger.free_expired_slots(), slots)
    assert book.row(job)["unique_slot"] is None
    assert len(book.enqueue(**SCOPES["period"])) == 1


def test_expiry_frees_no_slot_of_another_scope_tenant_or_key(book: Book) -> None:
    other = book.tenant("other")
    kept = [
        book.job(unique_key="k", unique_scope="live"),
        book.job(unique_key="k", unique_scope="period", unique_for_ms=1, tenant_id=other),
        book.job(unique_key="l", unique_scope="period", unique_for_ms=1),
    ]
    for job in kept:
        book.change(job, unique_until=text("now()"))
    book.execute(ledger.free_expired_slots(), parameters("slot", tenant_id=["default"], key=["k"]))
    assert all(book.row(job)["unique_slot"] for job in kept)


def test_a_cancelled_waiting_job_frees_its_slot(book: Book) -> None:
    job = book.job(**SCOPES["live"])
    book.cancel(job)
    assert len(book.enqueue(**SCOPES["live"])) == 1


# -- rescue


def of_the_dead(book: Book, **changes: Any) -> tuple[UUID, UUID]:
    """A RUNNING job whose worker is dead."""
    worker = book.worker()
    job, token = book.running(worker, **changes)
    book.kill(worker)
    return job, token


def test_a_crash_costs_the_attempt_and_makes_a_suspect(book: Book) -> None:
    job, token = of_the_dead(book, offer=True)
    (told,) = book.rescue(crashed=[token])
    row = book.row(job)
    assert (told["status"], row["status"], row["attempts"], row["crashes"]) == (PENDING, PENDING, 1, 1)
    assert row["suspect"] is True
    assert (row["attempt_token"], row["offered_at"], row["deadline_at"]) == (None, None, None)
    assert row["run_at"] <= now(book)
    (kept,) = row["errors"]
    assert (kept["kind"], kept["attempt"], kept["worker"]) == ("crashed", 1, str(row["worker_id"]))
    assert kept["message"] == row["error"] == "worker process died while running this job"
    assert datetime.fromisoformat(kept["ended_at"]) >= datetime.fromisoformat(kept["started_at"])


def test_the_third_crash_fails_the_job_whatever_attempts_are_left(book: Book) -> None:
    job = book.job(max_attempts=100)
    for crash in range(1, CRASH_CAP + 1):
        worker, token = book.worker(), uuid4()
        assert len(book.claim(job, worker, token, quarantine=crash > 1)) == 1
        book.kill(worker)
        (told,) = book.rescue(crashed=[token])
        assert told["status"] == (FAILED if crash == CRASH_CAP else PENDING)
    row = book.row(job)
    assert (row["crashes"], row["attempts"], row["suspect"]) == (3, 3, False)
    assert row["error"] == "worker process died 3 times while running this job"
    assert row["finished_at"] is not None


def test_a_crash_in_the_last_attempt_fails_the_job_and_says_so(book: Book) -> None:
    job, token = of_the_dead(book, max_attempts=1)
    assert book.rescue(crashed=[token])[0]["status"] == FAILED
    row = book.row(job)
    assert row["error"] == "worker process died while running the last attempt"
    assert (row["suspect"], row["crashes"]) == (False, 1)


def test_an_attempt_that_never_began_is_returned(book: Book) -> None:
    job, token = of_the_dead(book, max_attempts=1)
    assert book.rescue(unstarted=[token])[0]["status"] == PENDING
    row = book.row(job)
    assert (row["attempts"], row["crashes"], row["suspect"]) == (0, 0, False)
    assert [e["kind"] for e in row["errors"]] == ["released"]


def test_a_lost_attempt_is_charged_but_is_no_crash(book: Book) -> None:
    job, _ = of_the_dead(book)
    assert book.rescue()[0]["status"] == PENDING
    row = book.row(job)
    assert (row["attempts"], row["crashes"], row["suspect"]) == (1, 0, False)
    assert [(e["kind"], e["message"]) for e in row["errors"]] == [("lost", "worker lost")]


def test_a_last_attempt_that_is_lost_fails_the_job(book: Book) -> None:
    job, _ = of_the_dead(book, max_attempts=1)
    assert book.rescue()[0]["status"] == FAILED
    assert book.row(job)["error"] == "worker lost in the last attempt"


def test_a_suspect_that_is_lost_stays_a_suspect(book: Book) -> None:
    worker = book.worker()
    job, token = book.job(), uuid4()
    book.change(job, suspect=True, crashes=1)
    book.claim(job, worker, token, quarantine=True)
    book.kill(worker)
    book.rescue()
    assert book.row(job)["suspect"] is True


@pytest.mark.parametrize("kind", ["crashed", "unstarted", "lost"])
def test_a_dead_workers_job_that_was_to_be_cancelled_is_cancelled(book: Book, kind: str) -> None:
    job, token = of_the_dead(book)
    book.cancel(job)
    kinds: dict[str, Any] = {} if kind == "lost" else {kind: [token]}
    assert book.rescue(**kinds)[0]["status"] == CANCELLED
    row = book.row(job)
    assert row["finished_at"] is not None
    assert row["suspect"] is False


def test_the_living_keep_their_jobs(book: Book) -> None:
    job, token = book.running()
    assert book.rescue(crashed=[token]) == []
    assert book.row(job)["status"] == RUNNING


def test_each_of_a_dead_workers_jobs_gets_its_own_verdict(book: Book) -> None:
    worker = book.worker()
    (crashed, c), (unstarted, u), (lost, _) = (book.running(worker) for _ in range(3))
    book.kill(worker)
    rows = {row["id"]: row for row in book.rescue(crashed=[c], unstarted=[u])}
    assert {job: row["attempts"] for job, row in rows.items()} == {crashed: 1, unstarted: 0, lost: 1}
    assert [book.row(j)["crashes"] for j in (crashed, unstarted, lost)] == [1, 0, 0]


def test_a_row_that_somebody_holds_is_left_for_the_next_pass(book: Book) -> None:
    held, _ = of_the_dead(book)
    free, _ = of_the_dead(book)
    with book.transaction() as connection:
        connection.execute(text("SELECT 1 FROM callboard.jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert [row["id"] for row in book.rescue()] == [free]
    assert [row["id"] for row in book.rescue()] == [held]


def test_a_finish_that_was_first_is_not_overwritten(book: Book) -> None:
    """River's rescuer once overwrote completed jobs; here one looks while the finish is not yet committed."""
    job, token = of_the_dead(book)
    with book.transaction() as connection:
        ending: dict[str, list[Any]] = {
            "id": [job],
            "token": [token],
            "result": ["1"],
            "result_error": [None],
            "progress": [None],
        }
        assert len(all_rows(connection.execute(ledger.complete(), parameters("done", **ending)))) == 1
        assert book.rescue(crashed=[token]) == []
    assert book.rescue(crashed=[token]) == []
    assert book.row(job)["status"] == COMPLETED


def test_a_deadline_takes_the_attempt_from_a_living_worker(book: Book) -> None:
    (late, _), (early, _), (endless, _) = (book.running() for _ in range(3))
    book.change(late, deadline_at=text("now() - interval '1 s'"))
    book.change(early, deadline_at=text("now() + interval '1 h'"))
    assert [row["id"] for row in book.rescue(overdue=True)] == [late]
    row = book.row(late)
    assert (row["status"], row["attempts"], row["crashes"], row["error"]) == (PENDING, 1, 0, "deadline exceeded")
    assert book.row(endless)["status"] == RUNNING


def test_a_deadline_in_the_last_attempt_fails_the_job(book: Book) -> None:
    job, _ = book.running(max_attempts=1)
    book.change(job, deadline_at=text("now() - interval '1 s'"))
    assert book.rescue(overdue=True)[0]["status"] == FAILED
    assert book.row(job)["error"] == "deadline exceeded in the last attempt"


# -- cancel


def test_a_waiting_job_is_cancelled_at_once(book: Book) -> None:
    job = book.job()
    (told,) = book.cancel(job)
    row = book.row(job)
    assert (told["status"], row["status"], row["attempts"]) == (CANCELLED, CANCELLED, 0)
    assert row["finished_at"] is not None
    assert book.claim(job, book.worker()) == []


def test_a_running_job_is_asked_to_stop(book: Book) -> None:
    job, token = book.running()
    (told,) = book.cancel(job)
    row = book.row(job)
    assert (told["status"], row["status"], row["attempt_token"]) == (RUNNING, RUNNING, token)
    assert row["cancel_requested_at"] is not None
    assert row["finished_at"] is None


def test_asking_twice_keeps_the_first_request(book: Book) -> None:
    job, _ = book.running()
    book.cancel(job)
    first = book.row(job)["cancel_requested_at"]
    book.cancel(job)
    assert book.row(job)["cancel_requested_at"] == first


def test_an_actor_that_finishes_all_the_same_has_completed(book: Book) -> None:
    job, token = book.running()
    book.cancel(job)
    assert book.complete(job, token)[0]["status"] == COMPLETED


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
def test_what_has_ended_is_not_cancelled(book: Book, status: str) -> None:
    job = book.job()
    book.change(job, status=status)
    before = book.row(job)
    assert book.cancel(job) == []
    assert book.row(job) == before


def test_another_tenants_job_is_neither_cancelled_nor_replayed(book: Book) -> None:
    job = book.job(tenant_id=book.tenant("other"))
    assert book.cancel(job) == []
    book.change(job, status=FAILED)
    assert book.replay(job) == []
    assert len(book.replay(job, "other")) == 1


def test_flush_cancels_what_waits_in_one_queue(book: Book) -> None:
    waiting, elsewhere = book.job(), book.job(queue="other")
    running, _ = book.running()
    assert [r["id"] for r in book.execute(ledger.cancel_queue(), {"in_queue": "default"})] == [waiting]
    assert [book.row(j)["status"] for j in (waiting, elsewhere, running)] == [CANCELLED, PENDING, RUNNING]


# -- replay


def failed(book: Book, **changes: Any) -> UUID:
    job, token = book.running(**changes)
    book.fail(job, token, "fail")
    return job


def test_a_retry_by_hand_gives_one_attempt_more(book: Book) -> None:
    job = failed(book, max_attempts=1)
    (told,) = book.replay(job)
    row = book.row(job)
    assert (told["status"], row["status"], row["attempts"], row["max_attempts"]) == (PENDING, PENDING, 1, 2)
    assert (row["error"], row["finished_at"], row["offered_at"], row["cancel_requested_at"]) == (None,) * 4
    assert len(row["errors"]) == 1, "what happened stays told"
    assert book.claim(job, book.worker())[0]["attempts"] == 2


def test_a_retry_by_hand_takes_no_attempt_away(book: Book) -> None:
    job = failed(book, max_attempts=5)
    book.replay(job)
    assert book.row(job)["max_attempts"] == 5
    endless = failed(book, max_attempts=None)
    book.replay(endless)
    assert book.row(endless)["max_attempts"] is None


def test_a_cancelled_job_can_be_retried_and_runs(book: Book) -> None:
    job, token = book.running()
    book.cancel(job)
    book.fail(job, token, "cancel")
    assert len(book.replay(job)) == 1
    second = uuid4()
    book.claim(job, book.worker(), second)
    assert book.fail(job, second)[0]["status"] == PENDING, "the old request to cancel is forgotten"


@pytest.mark.parametrize("status", [PENDING, RUNNING, COMPLETED])
def test_a_state_that_forbids_a_retry_is_left_alone(book: Book, status: str) -> None:
    job, _ = book.running()
    book.change(job, status=status)
    before = book.row(job)
    assert book.replay(job) == []
    assert book.row(job) == before


def test_a_retry_is_refused_while_a_cancelled_attempt_still_runs(book: Book) -> None:
    job, _ = book.running()
    book.cancel(job)
    assert book.replay(job) == []


def test_a_job_that_crashed_runs_in_quarantine_first(book: Book) -> None:
    job, token = of_the_dead(book, max_attempts=1)
    book.rescue(crashed=[token])
    book.replay(job)
    row = book.row(job)
    assert (row["suspect"], row["crashes"]) == (True, 0)


def test_a_retry_by_hand_takes_a_live_key_again(book: Book) -> None:
    job = failed(book, **SCOPES["live"])
    book.replay(job)
    assert book.row(job)["unique_slot"] == "k"
    assert book.enqueue(**SCOPES["live"]) == []


def test_a_retry_by_hand_is_refused_when_its_live_key_is_taken(book: Book) -> None:
    job = failed(book, **SCOPES["live"])
    book.job(**SCOPES["live"])
    before = book.row(job)
    with pytest.raises(IntegrityError, match="uq_jobs_unique_slot"):
        book.replay(job)
    assert book.row(job) == before


# -- progress and log


def test_progress_and_lines_are_kept(book: Book) -> None:
    job, token = book.running()
    book.report(job, token, progress='{"current": 1, "total": 2, "message": null}')
    (told,) = book.report(job, token, lines='[{"text": "a"}, {"text": "b"}]')
    row = book.row(job)
    assert row["progress"] == told["progress"] == {"current": 1, "total": 2, "message": None}
    assert [line["text"] for line in row["log"]] == ["a", "b"]


def test_the_latest_two_hundred_lines_are_kept(book: Book) -> None:
    job, token = book.running()
    for start in range(0, LOG_KEPT + 60, 20):
        book.report(job, token, lines=json.dumps([{"text": str(n)} for n in range(start, start + 20)]))
    texts = [line["text"] for line in book.row(job)["log"]]
    assert texts == [str(n) for n in range(60, LOG_KEPT + 60)]
    book.report(job, token, lines=json.dumps([{"text": f"new {n}"} for n in range(LOG_KEPT + 5)]))
    texts = [line["text"] for line in book.row(job)["log"]]
    assert texts == [f"new {n}" for n in range(5, LOG_KEPT + 5)]


# -- versions


def test_the_version_rises_by_one_with_every_change(book: Book) -> None:
    worker, token = book.worker(), uuid4()
    job = book.job(max_attempts=None)
    versions = [book.row(job)["version"]]

    def step(rows: list[Row]) -> None:
        (told,) = rows
        assert told["version"] == book.row(job)["version"]
        versions.append(told["version"])

    step(book.claim(job, worker, token))
    step(book.report(job, token, progress="{}"))
    step(book.give_back(job, token))
    step(book.claim(job, worker, token := uuid4()))
    step(book.fail(job, token))
    step(book.claim(job, worker, token := uuid4()))
    step(book.cancel(job))
    step(book.fail(job, token))
    step(book.replay(job))
    step(book.claim(job, worker, token := uuid4()))
    book.kill(worker)
    step(book.rescue())
    step(book.cancel(job))
    step(book.replay(job))
    step(book.claim(job, book.worker(), token := uuid4()))
    step(book.complete(job, token))
    assert versions == list(range(1, len(versions) + 1))


def test_no_verb_makes_a_transition_that_the_table_lacks(book: Book) -> None:
    """Every verb on a row of every status: what happens is in the table, or nothing happens."""
    legal = {(t.verb, t.before, t.after) for t in TRANSITIONS}
    verbs: dict[str, list[Callable[[UUID, UUID], object]]] = {
        "claim": [lambda job, token: book.claim(job, book.worker())],
        "complete": [book.complete],
        "fail_attempt": [lambda job, token, how=how: book.fail(job, token, how) for how in ("retry", "fail", "cancel")],  # type: ignore[misc]
        "give_back": [book.give_back],
        "rescue": [lambda job, token: book.rescue(), lambda job, token: book.rescue(crashed=[token])],
        "cancel": [lambda job, token: book.cancel(job)],
        "replay": [lambda job, token: book.replay(job)],
    }
    seen = set()
    for verb, calls in verbs.items():
        for status in Status:
            for asked in (False, True):
                for attempts in (1, 3):
                    for call in calls:
                        worker = book.worker()
                        job, token = book.running(worker)
                        book.change(job, attempts=attempts, status=status)
                        if asked:
                            book.change(job, cancel_requested_at=text("now()"))
                        if verb == "rescue":
                            book.kill(worker)
                        call(job, token)
                        after = Status(book.row(job)["status"])
                        if after != status:
                            seen.add((verb, status, after))
    assert seen - legal == set()
    assert legal - seen == {change for change in legal if change[1] is None}


# -- together


def together(*calls: Callable[[], object]) -> None:
    """Run these at the same time, and raise what any of them raised."""
    barrier, errors = threading.Barrier(len(calls)), []

    def run(call: Callable[[], object]) -> None:
        barrier.wait(10)
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for error in errors:
        raise error


def test_sessions_that_finish_the_same_jobs_in_opposite_order_do_not_deadlock(book: Book, engine: Engine) -> None:
    """Locks are taken in the order of ids, whatever order the lists have (without that: 190 of 600 batches died)."""
    worker = book.worker()
    ids = [row["id"] for row in book.enqueue(actor=["act"] * 199, max_attempts=None)]
    tokens = {row["id"]: row["attempt_token"] for row in book.claim(ids, worker)}
    number = len(ids)
    end: dict[str, list[Any]] = {"outcome": ["retry"] * number, "delay_ms": [0] * number, "error": ["x"] * number}

    def finish(order: list[UUID]) -> None:
        columns = {
            "id": order,
            "token": [tokens[i] for i in order],
            "entry": ["{}"] * number,
            "progress": [None] * number,
        }
        values = parameters("end", **columns, **end)
        for _ in range(15):
            with transaction(engine).connect() as connection:
                connection.execute(ledger.fail_attempt(), values)
                connection.rollback()

    together(lambda: finish(ids), lambda: finish(ids[::-1]))


def test_bulk_inserts_of_the_same_keys_in_opposite_order_do_not_deadlock(book: Book, engine: Engine) -> None:
    keys = [f"k{n:03}" for n in range(100)]

    def send(order: list[str]) -> None:
        columns: dict[str, list[Any]] = {name: [value] * len(order) for name, value in NEW.items()}
        columns |= {"id": [uuid4() for _ in order], "unique_key": order, "unique_scope": ["live"] * len(order)}
        for _ in range(10):
            with transaction(engine).connect() as connection:
                connection.execute(ledger.enqueue(), parameters("new", **columns))
                connection.rollback()

    together(lambda: send(keys), lambda: send(keys[::-1]))
