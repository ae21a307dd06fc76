"""What a row of the old worker's ``Job`` table becomes here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from actors.runtime.errors import DataRefused, PayloadRefused
from actors.runtime.job_type import JobType
from actors.runtime.messages import job_id_of
from models.json_data import MAX_ARGS_BYTES, clean_text, encode, loads
from models.state import Status

#: The old worker's own limit, and what it wrote when a job had reached it.
MAX_ATTEMPTS = 3
GIVEN_UP = "Max retry attempts exceeded"
#: Characters of an error that the row's one line keeps.
ERROR_CHARS = 500


class OldJob(NamedTuple):
    """One row as the old system has it; the payload is JSON text, and times are UTC without saying so."""

    id: str
    tenant_id: str
    type: str
    payload: str
    status: str
    attempts: int
    error: str | None
    created_at: datetime
    updated_at: datetime


class Refused(Exception):
    """A row that cannot be brought in; it stays where it is."""


class Past(NamedTuple):
    """Parameters of :func:`models.history.bring_in`, and why a live job was ended, None if it was not."""

    columns: dict[str, Any]
    ended_because: str | None


def past_of(old: OldJob, kinds: Mapping[str, JobType]) -> Past:
    """The row's parameters.

    RUNNING means that the old worker died with it, or was stopped in the middle: its attempt counts, and the job
    runs again if any is left. What no job type takes is FAILED with the reason, its payload kept.

    Raises:
      Refused: the row holds something that cannot be kept.
    """
    if not 1 <= len(old.tenant_id) <= 100 or "\0" in old.tenant_id:
        raise Refused(f"the tenant {clean_text(old.tenant_id, 40)!r} is not of 1 to 100 characters")
    if old.status not in ("PENDING", "RUNNING", "COMPLETED", "FAILED"):
        raise Refused(f"there is no status {clean_text(old.status, 40)!r}")
    kwargs, misfit = _kwargs(old, kinds.get(old.type))
    status, error, why = Status(old.status), old.error, None
    entries = [_entry(old, "failed", old.error)] if old.error else []
    if status is Status.RUNNING:
        status = Status.PENDING
        entries.append(_entry(old, "lost", "the old worker ended in the middle of this attempt"))
    if status is Status.PENDING:
        why = misfit or (GIVEN_UP if old.attempts >= MAX_ATTEMPTS else None)
        if why is not None:
            status, error = Status.FAILED, why
            entries.append(_entry(old, "failed", why))
    job_id, replaced = job_id_of(old.id)
    created, updated = (moment.replace(tzinfo=UTC) for moment in (old.created_at, old.updated_at))
    columns = {
        "id": job_id,
        "tenant_id": old.tenant_id,
        "actor": old.type,
        "queue": kinds[old.type].actor.queue_name if old.type in kinds else "default",
        "kwargs": kwargs,
        "options": json.dumps({"original_message_id": old.id} if replaced else {}),
        "errors": json.dumps(entries),
        "message_timestamp": int(created.timestamp() * 1000),
        "status": status,
        "attempts": max(old.attempts, 0),
        "max_attempts": max(MAX_ATTEMPTS, old.attempts),
        "error": clean_text(error, ERROR_CHARS) if error else None,
        "created_at": created.isoformat(),
        "updated_at": updated.isoformat(),
    }
    return Past(columns, why)


def _kwargs(old: OldJob, kind: JobType | None) -> tuple[str, str | None]:
    """The arguments as JSON text, and why they cannot run (None: they can)."""
    if not old.type or len(old.type) > 255:
        raise Refused("the type is not of 1 to 255 characters")
    try:
        payload = loads(old.payload)
        kept = encode(payload if isinstance(payload, dict) else {"payload": payload}, max_bytes=MAX_ARGS_BYTES)
        if kind is None:
            return kept, f"there is no job type {clean_text(old.type, 80)!r} here"
        return encode(kind.kwargs_of(payload, wire=True), max_bytes=MAX_ARGS_BYTES), None
    except PayloadRefused as refused:
        return kept, clean_text(str(refused).removesuffix("; nothing was stored"), ERROR_CHARS)
    except DataRefused as refused:
        raise Refused(f"its payload cannot be kept: {refused.reason} (at {refused.pointer or 'the top'})") from None


def _entry(old: OldJob, kind: str, message: str | None) -> dict[str, Any]:
    """An entry of ``errors``; the old system kept only the latest."""
    return {
        "attempt": max(old.attempts, 0),
        "kind": kind,
        "class": None,
        "message": clean_text(message, ERROR_CHARS),
        "traceback": None,
        "worker": None,
        "started_at": None,
        "ended_at": old.updated_at.replace(tzinfo=UTC).isoformat(),
    }
