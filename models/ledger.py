"""The ledger: the only writer of job rows, one verb per transition of :data:`models.state.TRANSITIONS`.

Each function returns one statement for the caller to execute, on a synchronous, an asynchronous or the
caller's own connection. Every update of ``status`` names the prior status and, where an attempt is ended, the
attempt's token: a write that matches no row belongs to a fenced-off attempt and is dropped, never forced.
Rows are locked in the order of their ids; claim and rescue skip what somebody else holds.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Select,
    SmallInteger,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB, insert

from models.arrays import rows_of
from models.state import Status
from models.tables import is_live, is_pending, is_running, jobs, tenants, workers

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert

#: Crashes after which a job is FAILED, whatever ``max_attempts`` says.
CRASH_CAP: Final = 3
#: Entries of ``errors`` that a row keeps; older ones fall off.
ERRORS_KEPT: Final = 50
#: Lines of ``log`` that a row keeps.
LOG_KEPT: Final = 200

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = (s.value for s in Status)

#: What an event and a job's list entry need to know of a row that has just changed.
EVENT_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.tenant_id,
    jobs.c.actor,
    jobs.c.status,
    jobs.c.attempts,
    jobs.c.progress,
    jobs.c.error,
    jobs.c.version,
    jobs.c.updated_at,
)
#: What rebuilds the message of a row.
MESSAGE_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.tenant_id,
    jobs.c.actor,
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.args,
    jobs.c.kwargs,
    jobs.c.options,
    jobs.c.message_timestamp,
    jobs.c.dispatch,
    jobs.c.offered_at,
)


def _ms(amount: ColumnElement[Any]) -> ColumnElement[Any]:
    """A number of milliseconds as an interval."""
    return cast(amount, Float) * cast("1 millisecond", INTERVAL)


def _changed() -> dict[Any, Any]:
    return {"version": jobs.c.version + 1, "updated_at": func.now()}


def _slot_freed() -> ColumnElement[Any]:
    """A slot's value once its job is terminal: scope ``period`` frees by expiry only."""
    return case((jobs.c.unique_scope == "period", jobs.c.unique_slot), else_=null())


def _with_entry(entry: ColumnElement[Any]) -> ColumnElement[Any]:
    """``errors`` with one more entry, the oldest dropped when full."""
    full = func.jsonb_array_length(jobs.c.errors) >= ERRORS_KEPT
    kept = case((full, jobs.c.errors.op("-")(cast(0, Integer))), else_=jobs.c.errors)
    return kept.op("||")(func.jsonb_build_array(entry))


def _attempts_left() -> ColumnElement[bool]:
    return or_(jobs.c.max_attempts.is_(None), jobs.c.attempts < jobs.c.max_attempts)


@cache
def enqueue() -> ReturningInsert[Any]:
    """Insert jobs as PENDING; a row whose id or unique slot is taken, or whose tenant is unknown, is left out.

    Parameters (``new_*`` lists): id, tenant_id, actor, queue, priority, args, kwargs, options (JSON text),
    message_timestamp (ms), max_attempts, run_at (ISO or None), delay_ms, unique_key, unique_scope,
    unique_for_ms (scope ``period``), offer (the caller rings for what is due now).

    Returns rows of :data:`EVENT_COLUMNS` plus ``dispatch`` (1: ring for it), one per inserted job.
    """
    new = rows_of(
        "new",
        id=Uuid(),
        tenant_id=Text(),
        actor=Text(),
        queue=Text(),
        priority=SmallInteger(),
        args=Text(),
        kwargs=Text(),
        options=Text(),
        message_timestamp=BigInteger(),
        max_attempts=Integer(),
        run_at=DateTime(timezone=True),
        delay_ms=Float(),
        unique_key=Text(),
        unique_scope=Text(),
        unique_for_ms=Float(),
        offer=Boolean(),
    )
    run_at = func.coalesce(new.c.run_at, func.now() + _ms(func.coalesce(new.c.delay_ms, 0)))
    offered = and_(new.c.offer, run_at <= func.now())
    source = (
        select(
            new.c.id,
            tenants.c.id,
            new.c.actor,
            new.c.queue,
            new.c.priority,
            cast(new.c.args, JSON),
            cast(new.c.kwargs, JSON),
            cast(new.c.options, JSONB),
            new.c.message_timestamp,
            literal(PENDING),
            new.c.max_attempts,
            run_at,
            new.c.unique_key,
            new.c.unique_key,
            new.c.unique_scope,
            func.now() + _ms(new.c.unique_for_ms),
            case((offered, 1), else_=0),
            case((offered, func.now()), else_=null()),
        )
        .select_from(new.join(tenants, tenants.c.id == new.c.tenant_id))
        # Everybody waits for taken keys in this order; ids are each sender's own, and would be none.
        .order_by(new.c.unique_key, new.c.tenant_id, new.c.id)
    )
    columns = (
        "id tenant_id actor queue priority args kwargs options message_timestamp status max_attempts run_at "
        "unique_key unique_slot unique_scope unique_until dispatch offered_at"
    )
    statement = insert(jobs).from_select(columns.split(), source, include_defaults=False)
    return statement.on_conflict_do_nothing().returning(*EVENT_COLUMNS, jobs.c.dispatch)


@cache
def free_expired_slots() -> Update:
    """Free the slots of scope ``period`` that have expired. Parameters: ``slot_tenant_id``, ``slot_key`` lists."""
    slot = rows_of("slot", tenant_id=Text(), key=Text())
    return (
        update(jobs)
        .values(unique_slot=None)
        .where(
            jobs.c.tenant_id == slot.c.tenant_id,
            jobs.c.unique_slot == slot.c.key,
            jobs.c.unique_scope == "period",
            jobs.c.unique_until <= func.now(),
        )
    )


@cache
def hold_waiting() -> Select[Any]:
    """Keep jobs of scope ``waiting`` from being claimed until the caller's transaction ends.

    Whoever is told that its job is a duplicate may have changed what the holder will read, and not have committed
    that: claimed before, the holder would run without it, and nothing after it. Waits for a claim under way and then
    returns no row for it. Parameters: ``slot_tenant_id``, ``slot_key`` lists.
    """
    slot = rows_of("slot", tenant_id=Text(), key=Text())
    return (
        select(jobs.c.id)
        .where(
            tuple_(jobs.c.tenant_id, jobs.c.unique_slot).in_(select(slot.c.tenant_id, slot.c.key)),
            jobs.c.unique_scope == "waiting",
            is_pending,
        )
        .order_by(jobs.c.id)
        .with_for_update(of=jobs, read=True, key_share=True)
    )


@cache
def claim() -> Update:
    """Give jobs to a worker: PENDING → RUNNING, one attempt more; the same token again changes nothing.

    Never takes over a live lease, and only a living worker may claim. Parameters: ``want_id``, ``want_token``,
    ``want_limit_ms`` lists (None: no deadline), ``worker`` (UUID), ``quarantine`` (take suspects, and only them).

    Returns rows of the message and event columns plus what the attempt must know.
    """
    want = rows_of("want", id=Uuid(), token=Uuid(), limit_ms=Float())
    alive = exists().where(workers.c.id == bindparam("worker", type_=Uuid()), workers.c.dead_at.is_(None))
    free = and_(
        is_pending,
        jobs.c.run_at <= func.now(),
        jobs.c.suspect == bindparam("quarantine", type_=Boolean()),
        _attempts_left(),
    )
    mine = and_(is_running, jobs.c.attempt_token == want.c.token)
    locked = (
        select(jobs.c.id, want.c.token, want.c.limit_ms)
        .select_from(jobs.join(want, want.c.id == jobs.c.id))
        .where(alive, or_(free, mine))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs, skip_locked=True)
        .cte("locked")
    )
    again = and_(is_running, jobs.c.attempt_token == locked.c.token)
    return (
        update(jobs)
        .values(
            status=RUNNING,
            attempts=case((again, jobs.c.attempts), else_=jobs.c.attempts + 1),
            attempt_token=locked.c.token,
            worker_id=bindparam("worker", type_=Uuid()),
            started_at=case((again, jobs.c.started_at), else_=func.now()),
            deadline_at=func.now() + _ms(locked.c.limit_ms),
            progress=case((again, jobs.c.progress), else_=null()),
            unique_slot=case((jobs.c.unique_scope == "waiting", null()), else_=jobs.c.unique_slot),
            version=case((again, jobs.c.version), else_=jobs.c.version + 1),
            updated_at=func.now(),
        )
        .where(jobs.c.id == locked.c.id)
        .returning(*EVENT_COLUMNS, jobs.c.attempt_token, jobs.c.max_attempts, jobs.c.options, jobs.c.started_at)
    )


def _ending(name: str, **extra: Any) -> tuple[Any, Any]:
    """The attempts that a finishing verb ends, locked in order, and the join condition to them."""
    end = rows_of(name, id=Uuid(), token=Uuid(), **extra)
    locked = (
        select(jobs.c.id, *(end.c[key] for key in extra))
        .select_from(jobs.join(end, and_(end.c.id == jobs.c.id, end.c.token == jobs.c.attempt_token)))
        .where(is_running)
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
        .cte(f"{name}_locked")
    )
    return locked, and_(jobs.c.id == locked.c.id, is_running)


@cache
def complete() -> Update:
    """RUNNING → COMPLETED with the result. Parameters: ``done_id``, ``done_token``, ``done_result`` (JSON text),
    ``done_result_error``, ``done_progress`` (JSON text; None: as it is) lists. Returns :data:`EVENT_COLUMNS`."""
    done, where = _ending("done", result=Text(), result_error=Text(), progress=Text())
    return (
        update(jobs)
        .values(
            status=COMPLETED,
            result=cast(done.c.result, JSON),
            result_error=done.c.result_error,
            error=None,
            progress=func.coalesce(cast(done.c.progress, JSONB), jobs.c.progress),
            suspect=False,
            unique_slot=_slot_freed(),
            deadline_at=None,
            finished_at=func.now(),
            **_changed(),
        )
        .where(where)
        .returning(*EVENT_COLUMNS)
    )


@cache
def fail_attempt() -> Update:
    """End an attempt with an error: RUNNING → PENDING (retry), FAILED or CANCELLED.

    Parameters, lists: ``end_id``, ``end_token``, ``end_outcome`` (retry | fail | cancel), ``end_delay_ms``,
    ``end_error`` (one line), ``end_entry`` (JSON text for ``errors``), ``end_progress``.
    A retry without attempts left is FAILED; a requested cancel wins over a retry. Returns :data:`EVENT_COLUMNS`.
    """
    end, where = _ending("end", outcome=Text(), delay_ms=Float(), error=Text(), entry=Text(), progress=Text())
    cancelled = or_(end.c.outcome == "cancel", and_(jobs.c.cancel_requested_at.is_not(None), end.c.outcome == "retry"))
    retried = and_(end.c.outcome == "retry", _attempts_left())
    waits = and_(retried, ~cancelled)
    return (
        update(jobs)
        .values(
            status=case((cancelled, CANCELLED), (retried, PENDING), else_=FAILED),
            run_at=case((waits, func.now() + _ms(end.c.delay_ms)), else_=jobs.c.run_at),
            offered_at=case((waits, null()), else_=jobs.c.offered_at),
            error=end.c.error,
            errors=_with_entry(cast(end.c.entry, JSONB)),
            progress=func.coalesce(cast(end.c.progress, JSONB), jobs.c.progress),
            suspect=False,
            unique_slot=case((waits, jobs.c.unique_slot), else_=_slot_freed()),
            deadline_at=None,
            finished_at=case((waits, null()), else_=func.now()),
            **_changed(),
        )
        .where(where)
        .returning(*EVENT_COLUMNS)
    )


@cache
def give_back() -> Update:
    """Return an attempt uncharged: RUNNING → PENDING after a delay (CANCELLED when that was asked for).

    Parameters, lists: ``back_id``, ``back_token``, ``back_delay_ms``, ``back_entry`` (JSON text; None: no entry).
    """
    back, where = _ending("back", delay_ms=Float(), entry=Text())
    cancelled = jobs.c.cancel_requested_at.is_not(None)
    return (
        update(jobs)
        .values(
            status=case((cancelled, CANCELLED), else_=PENDING),
            attempts=jobs.c.attempts - 1,
            run_at=func.now() + _ms(back.c.delay_ms),
            offered_at=null(),
            errors=case((back.c.entry.is_(None), jobs.c.errors), else_=_with_entry(cast(back.c.entry, JSONB))),
            progress=null(),
            unique_slot=case((cancelled, _slot_freed()), else_=jobs.c.unique_slot),
            deadline_at=None,
            finished_at=case((cancelled, func.now()), else_=null()),
            **_changed(),
        )
        .where(where)
        .returning(*EVENT_COLUMNS)
    )


@cache
def rescue(*, overdue: bool = False) -> Update:
    """Take back the jobs of dead workers (or, ``overdue``, those past their deadline): RUNNING → PENDING,
    FAILED or CANCELLED.

    Parameters: ``crashed`` and ``unstarted``: lists of attempt tokens (text). A token in ``crashed`` was in its
    actor when its process died without having been asked to stop: one crash more, and the next attempt runs in
    quarantine. A token in ``unstarted`` never began: its attempt is returned. Any other is *lost*: the attempt
    counts, no crash does. Rows that somebody holds are left for the next pass.

    Returns :data:`EVENT_COLUMNS` plus ``worker_id``.
    """
    token = jobs.c.attempt_token
    crashed = token == func.any(cast(bindparam("crashed", type_=ARRAY(Text)), ARRAY(Uuid)))
    unstarted = token == func.any(cast(bindparam("unstarted", type_=ARRAY(Text)), ARRAY(Uuid)))
    if overdue:
        due: ColumnElement[bool] = jobs.c.deadline_at < func.now()
    else:
        dead = select(workers.c.id).where(workers.c.dead_at.is_not(None))
        due = jobs.c.worker_id.in_(dead)
    found = (
        select(jobs.c.id, crashed.label("crashed"), unstarted.label("unstarted"))
        .where(is_running, due)
        .order_by(jobs.c.id)
        .limit(1000)
        .with_for_update(of=jobs, skip_locked=True)
        .cte("found")
    )
    capped = and_(found.c.crashed, jobs.c.crashes + 1 >= CRASH_CAP)
    spent = and_(~found.c.unstarted, ~_attempts_left())
    cancelled = jobs.c.cancel_requested_at.is_not(None)
    waits = ~or_(cancelled, capped, spent)
    why = case(
        (capped, literal(f"worker process died {CRASH_CAP} times while running this job")),
        (and_(found.c.crashed, spent), literal("worker process died while running the last attempt")),
        (found.c.crashed, literal("worker process died while running this job")),
        (found.c.unstarted, literal("worker process ended before this attempt began")),
        (spent, literal("deadline exceeded in the last attempt" if overdue else "worker lost in the last attempt")),
        else_=literal("deadline exceeded" if overdue else "worker lost"),
    )
    kind = case((found.c.crashed, "crashed"), (found.c.unstarted, "released"), else_="lost")
    entry = func.jsonb_build_object(
        text("'attempt'"), jobs.c.attempts,
        text("'kind'"), cast(kind, Text),
        text("'class'"), null(),
        text("'message'"), cast(why, Text),
        text("'traceback'"), null(),
        text("'worker'"), cast(jobs.c.worker_id, Text),
        text("'started_at'"), jobs.c.started_at,
        text("'ended_at'"), func.now(),
    )  # fmt: skip
    return (
        update(jobs)
        .values(
            status=case((cancelled, CANCELLED), (waits, PENDING), else_=FAILED),
            attempts=case((found.c.unstarted, jobs.c.attempts - 1), else_=jobs.c.attempts),
            crashes=case((found.c.crashed, jobs.c.crashes + 1), else_=jobs.c.crashes),
            suspect=and_(waits, or_(found.c.crashed, jobs.c.suspect)),
            run_at=case((waits, func.now()), else_=jobs.c.run_at),
            offered_at=case((waits, null()), else_=jobs.c.offered_at),
            attempt_token=null(),
            error=cast(why, Text),
            errors=_with_entry(entry),
            unique_slot=case((waits, jobs.c.unique_slot), else_=_slot_freed()),
            deadline_at=None,
            finished_at=case((waits, null()), else_=func.now()),
            **_changed(),
        )
        .where(jobs.c.id == found.c.id, is_running)
        .returning(*EVENT_COLUMNS, jobs.c.worker_id)
    )


@cache
def cancel() -> Update:
    """PENDING → CANCELLED at once; RUNNING: ask the attempt to stop. Parameters: ``job_id``, ``tenant``.

    Returns :data:`EVENT_COLUMNS`; no row: not this tenant's, or already terminal.
    """
    waiting = is_pending
    return (
        update(jobs)
        .values(
            status=case((waiting, CANCELLED), else_=jobs.c.status),
            cancel_requested_at=func.coalesce(jobs.c.cancel_requested_at, func.now()),
            unique_slot=case((waiting, _slot_freed()), else_=jobs.c.unique_slot),
            finished_at=case((waiting, func.now()), else_=null()),
            **_changed(),
        )
        .where(
            jobs.c.id == bindparam("job_id", type_=Uuid()),
            jobs.c.tenant_id == bindparam("tenant", type_=Text()),
            is_live,
        )
        .returning(*EVENT_COLUMNS)
    )


@cache
def replay() -> Update:
    """Retry by hand: FAILED or CANCELLED → PENDING, with at least one attempt left. Parameters: ``job_id``,
    ``tenant``.

    A job that had crashed runs in quarantine first. A live unique key is taken again: IntegrityError on
    ``uq_jobs_unique_slot`` when another job holds it now. Returns :data:`EVENT_COLUMNS`; no row: not this
    tenant's, or the state forbids.
    """
    return (
        update(jobs)
        .values(
            status=PENDING,
            max_attempts=case(
                (jobs.c.max_attempts.is_(None), null()),
                else_=func.greatest(jobs.c.max_attempts, jobs.c.attempts + 1),
            ),
            suspect=jobs.c.crashes > 0,
            crashes=0,
            run_at=func.now(),
            offered_at=null(),
            cancel_requested_at=null(),
            unique_slot=case((jobs.c.unique_scope == "live", jobs.c.unique_key), else_=jobs.c.unique_slot),
            result=null(),
            result_error=null(),
            error=null(),
            progress=null(),
            finished_at=null(),
            **_changed(),
        )
        .where(
            jobs.c.id == bindparam("job_id", type_=Uuid()),
            jobs.c.tenant_id == bindparam("tenant", type_=Text()),
            jobs.c.status.in_([FAILED, CANCELLED]),
        )
        .returning(*EVENT_COLUMNS)
    )


@cache
def report_progress() -> Update:
    """Note how far an attempt is. Parameters: ``job_id``, ``token``, ``new_progress`` and ``new_lines`` (JSON text
    of an array; None: nothing new). No row: the attempt is no longer this worker's."""
    lines = cast(bindparam("new_lines", type_=Text()), JSONB)
    grown = jobs.c.log.op("||")(func.coalesce(lines, cast("[]", JSONB)))
    over = func.greatest(func.jsonb_array_length(grown) - LOG_KEPT, 0)
    trimmed = func.coalesce(
        func.jsonb_path_query_array(
            grown, text("'$[$from to last]'::jsonpath"), func.jsonb_build_object(text("'from'"), over)
        ),
        cast("[]", JSONB),
    )
    return (
        update(jobs)
        .values(
            progress=func.coalesce(cast(bindparam("new_progress", type_=Text()), JSONB), jobs.c.progress),
            log=case((lines.is_(None), jobs.c.log), else_=trimmed),
            **_changed(),
        )
        .where(
            jobs.c.id == bindparam("job_id", type_=Uuid()),
            jobs.c.attempt_token == bindparam("token", type_=Uuid()),
            is_running,
        )
        .returning(*EVENT_COLUMNS)
    )


@cache
def hold() -> Select[Any]:
    """Keep an attempt this worker's until the caller's transaction ends: nobody else can take the job meanwhile.

    Every verb that ends an attempt locks its row FOR UPDATE first, so the weakest lock is enough; progress and a
    cancel's request pass. Parameters: ``job_id``, ``token``. No row: the attempt is no longer this worker's.
    """
    return (
        select(jobs.c.id)
        .where(
            jobs.c.id == bindparam("job_id", type_=Uuid()),
            jobs.c.attempt_token == bindparam("token", type_=Uuid()),
            is_running,
        )
        .with_for_update(of=jobs, read=True, key_share=True)
    )


@cache
def cancel_queue() -> Update:
    """PENDING → CANCELLED for a whole queue (``broker.flush``). Parameter: ``in_queue``."""
    return (
        update(jobs)
        .values(
            status=CANCELLED,
            cancel_requested_at=func.coalesce(jobs.c.cancel_requested_at, func.now()),
            unique_slot=_slot_freed(),
            error="dropped by flush",
            finished_at=func.now(),
            **_changed(),
        )
        .where(jobs.c.queue == bindparam("in_queue", type_=Text()), is_pending)
        .returning(*EVENT_COLUMNS)
    )
