"""What one page of the board shows of its jobs: as :func:`models.queries.page_of_jobs`, without the documents."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, Text, bindparam, literal_column, select

from models.state import Status
from models.tables import jobs

#: What a row of the board shows; arguments, results and tracebacks stay in the database.
BOARD_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.actor,
    jobs.c.status,
    jobs.c.attempts,
    jobs.c.max_attempts,
    jobs.c.progress,
    jobs.c.error,
    jobs.c.version,
    jobs.c.run_at,
    jobs.c.cancel_requested_at,
    jobs.c.created_at,
)


def board_page(
    *, status: Status | None = None, job_type: str | None = None, before: UUID | None = None, limit: int
) -> Select[Any]:
    """Rows of :data:`BOARD_COLUMNS` in descending order of id (UUIDv7: newest first). Parameter: ``tenant``.

    Args:
      status, job_type: only these; None: all.
      before: the last id of the page before.
      limit: rows at most.
    """
    wanted = [jobs.c.tenant_id == bindparam("tenant", type_=Text())]
    if status is not None:
        # Written out, not bound: with a bound value the plan could not use the index over live jobs.
        wanted.append(jobs.c.status == literal_column(f"'{Status(status)}'"))
    if job_type is not None:
        wanted.append(jobs.c.actor == job_type)
    if before is not None:
        wanted.append(jobs.c.id < before)
    return select(*BOARD_COLUMNS).where(*wanted).order_by(jobs.c.id.desc()).limit(limit)
