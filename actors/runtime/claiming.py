"""Claiming: just before a thread runs a job, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from dramatiq.middleware import TimeLimit
from sqlalchemy import bindparam, exc, func, or_, select

from actors.runtime.adoption import adopt
from actors.runtime.consumer import Delivery
from actors.runtime.current import Attempt
from actors.runtime.logs import get_logger
from actors.runtime.messages import job_id_of
from actors.runtime.passing import is_passing
from models import ledger
from models.arrays import parameters
from models.rows import one_row
from models.tables import is_pending, jobs

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("claim")

#: Seconds between two tries: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 1.0
#: Seconds past its time limit after which a thread that could not be interrupted loses its job.
OVERTIME_S = 30.0
#: How often a row that somebody holds for a moment is tried again.
HELD_TRIES = 20

#: Why a claim matched nothing; ``claimable``: only a lock or our own sign-in stood in the way.
_REASON = select(
    jobs.c.status,
    jobs.c.attempt_token,
    (
        is_pending
        & (jobs.c.run_at <= func.now())
        & (jobs.c.suspect == bindparam("quarantine"))
        & or_(jobs.c.max_attempts.is_(None), jobs.c.attempts < jobs.c.max_attempts)
    ).label("claimable"),
).where(jobs.c.id == bindparam("id"))


def claim(broker: CallboardBroker, message: Delivery) -> Attempt | None:
    """Get the lease of a job, waiting for Postgres as long as this process lives.

    Returns: the attempt; None when the job is not to be run here. Sets ``message.unsettled`` when nothing was
    decided and Redis must keep the message.
    """
    job_id, _ = job_id_of(message.message_id)
    token = uuid4()  # the same for every try: a claim whose answer got lost is found again
    limit_s = _limit_s(broker, message)
    pause, tries = FIRST_PAUSE_S, 0
    while not broker.stopping.is_set():
        liveness = broker.liveness
        if liveness is None or not liveness.wait_signed_in(LONGEST_PAUSE_S):
            broker.stopping.wait(FIRST_PAUSE_S)
            continue
        worker = liveness.worker_id
        try:
            row = _claim_once(broker, job_id, token, worker, limit_s)
            if row is not None:
                attempt = _attempt_of(row, worker, limit_s)
                liveness.began(attempt)
                log.debug("job.claimed", job_id=str(job_id), tenant_id=attempt.tenant_id, attempt=attempt.number)
                return attempt
            reason = _reason(broker, job_id)
            if reason is None:
                if message.marked:
                    log.info("message.dropped", job_id=str(job_id), reason="no row: rolled back or pruned")
                    return None
                adopt(broker, message._message, message.redis_id, message.data)
                if _reason(broker, job_id) is None:
                    return None  # isolated, and said so
            elif reason["status"] == "RUNNING" and reason["attempt_token"] == token:
                pass  # our own claim, whose answer got lost while it was still being committed
            elif not reason["claimable"]:
                log.debug("message.dropped", job_id=str(job_id), reason=reason["status"])
                return None
            tries += 1
            if tries > HELD_TRIES:
                log.info("message.dropped", job_id=str(job_id), reason="held elsewhere; the relay offers it again")
                return None
        except exc.DBAPIError as error:
            if not is_passing(error):
                raise
            log.warning("claim.waits", job_id=str(job_id), error=str(error.orig).splitlines()[0])
            tries = 0
        broker.stopping.wait(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
    message.unsettled = True
    return None


def _claim_once(
    broker: CallboardBroker, job_id: UUID, token: UUID, worker: UUID, limit_s: float | None
) -> Mapping[str, Any] | None:
    want = parameters("want", id=[job_id], token=[token], limit_ms=[limit_s * 1000 if limit_s else None])
    with broker.resources.engine.connect() as connection:
        result = connection.execute(ledger.claim(), {**want, "worker": worker, "quarantine": broker.quarantine})
        row = one_row(result)
    if row is not None:
        broker.bell.announce([row])
    return row


def _reason(broker: CallboardBroker, job_id: UUID) -> Mapping[str, Any] | None:
    with broker.resources.engine.connect() as connection:
        asked = {"id": job_id, "quarantine": broker.quarantine}
        return one_row(connection.execute(_REASON, asked))


def _attempt_of(row: Mapping[str, Any], worker: UUID, limit_s: float | None) -> Attempt:
    most = row["max_attempts"]
    return Attempt(
        id=row["id"],
        token=row["attempt_token"],
        number=row["attempts"],
        tenant_id=row["tenant_id"],
        actor=row["actor"],
        options={**row["options"], "max_retries": None if most is None else most - 1},
        worker_id=worker,
        started_at=row["started_at"],
        limit_s=limit_s,
        max_attempts=most,
    )


def _limit_s(broker: CallboardBroker, message: Delivery) -> float | None:
    """Seconds after which the ledger takes the job back: the actor's time limit and some; None: no limit."""
    limiter = next((m for m in broker.middleware if isinstance(m, TimeLimit)), None)
    if limiter is None:
        return None
    actor = broker.get_actor(message.actor_name)
    limit = message.options.get("time_limit") or actor.options.get("time_limit", limiter.time_limit)
    return None if limit == float("inf") else limit / 1000 + OVERTIME_S
