"""What one page of the board shows of its jobs: as :func:`models.queries.page_of_jobs`, without the documents."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select, select

from models.newest import Place, newest
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
    *, status: Status | None = None, job_type: str | None = None, before: Place | None = None, limit: int
) -> Select[Any]:
    """Rows of :data:`BOARD_COLUMNS`, newest first. Parameter: ``tenant``.

    Args:
      status, job_type: only these; None: all.
      before: the place of the last job of the page before.
      limit: rows at most.
    """
    wanted = newest(statuses=[status] if status else (), job_type=job_type, before=before, limit=limit)
    return (
        select(*BOARD_COLUMNS)
        .join_from(wanted, jobs, jobs.c.id == wanted.c.id)
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    )
