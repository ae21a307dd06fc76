"""Writing an attempt's end: until it is written, or the process is told to go."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Interrupt
from sqlalchemy import Connection, exc, select

from actors.runtime.current import Attempt
from actors.runtime.logs import get_logger
from actors.runtime.outcomes import Complete, Fail, GiveBack, Outcome
from actors.runtime.passing import is_passing
from actors.runtime.sending import NewJob, insert_jobs, prepare, ring
from models import ledger
from models.arrays import parameters
from models.engine import transaction
from models.errors import CallboardError
from models.rows import Row, all_rows
from models.state import Status
from models.tables import jobs

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("finish")

#: Seconds between two tries to reach Postgres: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
#: Seconds that a process which was asked to stop goes on trying; then the rescuer has the job.
LAST_WORDS_S = 20.0

#: The last progress and log lines of an attempt, as JSON texts; None for nothing new.
Report = tuple[str | None, str | None]


def finish(broker: CallboardBroker, attempt: Attempt, outcome: Outcome) -> bool:
    """End an attempt in the ledger, together with what its hooks sent.

    Returns: whether the ledger has this outcome; False when the attempt was fenced off or the process had to go.
    """
    children = _children(broker, attempt) if not isinstance(outcome, GiveBack) else []
    report = attempt.take_report()
    pause, gave_up_at = FIRST_PAUSE_S, None
    while True:
        try:
            return _finish_once(broker, attempt, outcome, children, report)
        except Interrupt:
            # A time limit or shutdown that fired between the actor's end and this line: the verb is idempotent.
            continue
        except CallboardError as error:
            log.error("child.refused", job_id=str(attempt.id), error=str(error))
            children = []
        except exc.DBAPIError as error:
            if not is_passing(error) and (children or not _is_minimal(outcome)):
                log.error("job.finish_refused", job_id=str(attempt.id), error=str(error.orig))
                outcome, children = (outcome if children else _minimal(outcome)), []
                continue
            if broker.stopping.is_set():
                gave_up_at = gave_up_at or time.monotonic() + LAST_WORDS_S
                if time.monotonic() > gave_up_at:
                    log.error("job.finish_abandoned", job_id=str(attempt.id), attempt=attempt.number)
                    return False
            log.warning("job.finish_waits", job_id=str(attempt.id), error=str(error.orig))
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
        except exc.TimeoutError:
            # Every connection of the pool is taken: nothing is wrong with what is to be written.
            log.warning("job.finish_waits", job_id=str(attempt.id), error="no connection free")
        except Exception:
            # Nothing is known to raise here; were it to, the row must not stay RUNNING for that.
            log.exception("job.finish_failed", job_id=str(attempt.id))
            if not children and _is_minimal(outcome):
                return False
            outcome, children = (outcome if children else _minimal(outcome)), []


def _finish_once(
    broker: CallboardBroker, attempt: Attempt, outcome: Outcome, children: list[NewJob], report: Report
) -> bool:
    engine = broker.resources.engine
    engine = transaction(engine) if children or report[1] is not None else engine
    inserted: list[Row] = []
    with engine.begin() as connection:
        ended = _write(connection, attempt, outcome, report)
        if ended and children:
            inserted, _ = insert_jobs(lambda sql, values: all_rows(connection.execute(sql, values)), children)
        if not ended:
            return _explain(connection, attempt)
    broker.bell.announce(ended)
    ring(broker, children, inserted)
    for child in children:
        broker.emit_after("enqueue", child.message, child.delay)
    _log(attempt, ended[0], outcome)
    return True


def _write(connection: Connection, attempt: Attempt, outcome: Outcome, report: Report) -> Sequence[Mapping[str, Any]]:
    ids, tokens = [attempt.id], [attempt.token]
    progress, lines = report
    if lines is not None:
        last = {"job_id": attempt.id, "token": attempt.token, "new_progress": None, "new_lines": lines}
        connection.execute(ledger.report_progress(), last)
    if isinstance(outcome, Complete):
        verb, columns = ledger.complete(), {"result": outcome.result, "result_error": outcome.result_error}
        values = parameters("done", id=ids, token=tokens, progress=[progress], **{k: [v] for k, v in columns.items()})
    elif isinstance(outcome, Fail):
        verb, fields = ledger.fail_attempt(), outcome._asdict()
        values = parameters("end", id=ids, token=tokens, progress=[progress], **{k: [v] for k, v in fields.items()})
    else:
        verb, fields = ledger.give_back(), outcome._asdict()
        values = parameters("back", id=ids, token=tokens, **{k: [v] for k, v in fields.items()})
    return all_rows(connection.execute(verb, values))


def _explain(connection: Connection, attempt: Attempt) -> bool:
    """No row was ours to end: either an earlier try of our own did it, or the attempt was fenced off."""
    row = connection.execute(select(jobs.c.status, jobs.c.attempt_token).where(jobs.c.id == attempt.id)).one_or_none()
    if row is not None and row.attempt_token == attempt.token and row.status != Status.RUNNING:
        return True
    log.warning(
        "attempt.fenced",
        job_id=str(attempt.id),
        tenant_id=attempt.tenant_id,
        attempt=attempt.number,
        status=row.status if row is not None else "gone",
    )
    return False


def _children(broker: CallboardBroker, attempt: Attempt) -> list[NewJob]:
    """What the hooks sent, checked; a message that cannot be kept is logged, and the job's own end stands."""
    children = []
    for message, delay in attempt.held:
        try:
            children.append(prepare(broker, message, delay, offer=True, tenant_id=attempt.tenant_id))
        except Exception as error:  # noqa: BLE001 - a payload model's own validator may raise anything
            log.error("child.refused", job_id=str(attempt.id), actor=message.actor_name, error=str(error))
    return children


#: What a row says when Postgres refused the text itself.
_REFUSED = "Postgres refused it"


def _is_minimal(outcome: Outcome) -> bool:
    if isinstance(outcome, Complete):
        return outcome.result is None and outcome.result_error == _REFUSED
    return outcome.entry in (None, "{}")


def _minimal(outcome: Outcome) -> Outcome:
    """The least that a row can hold: no input may leave it stuck in RUNNING."""
    if isinstance(outcome, Complete):
        return Complete(None, _REFUSED)
    if isinstance(outcome, Fail):
        return Fail(outcome.outcome, outcome.delay_ms, _REFUSED, "{}")
    return GiveBack(outcome.delay_ms, None)


def _log(attempt: Attempt, row: Mapping[str, Any], outcome: Outcome) -> None:
    fields = {
        "job_id": str(attempt.id),
        "tenant_id": attempt.tenant_id,
        "actor": attempt.actor,
        "attempt": attempt.number,
        "max_attempts": attempt.max_attempts,
        "status": row["status"],
    }
    if isinstance(outcome, Fail):
        if row["status"] == Status.PENDING:  # any other status is the job's end
            fields["retry_in_s"] = round(outcome.delay_ms / 1000, 1)
        log.warning("job.attempt_failed", **fields, reason=outcome.error)
    else:
        log.debug("job.ended", **fields)
