"""What one page of the board shows of its jobs: as :func:`models.queries.page_of_jobs`, without the documents."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Select, select

from models.newest import Shape, newest
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


@cache
def board_page(shape: Shape) -> Select[Any]:
    """Rows of :data:`BOARD_COLUMNS`, newest first. Parameters: :meth:`models.newest.Wanted.values`."""
    wanted = newest(shape)
    return (
        select(*BOARD_COLUMNS)
        .join_from(wanted, jobs, jobs.c.id == wanted.c.id)
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    )
