"""One DuckDB per job: in memory, spilling to the job's own folder, with no way to any file but one.

No text of a tenant ever becomes SQL: columns are called by their place, values are parameters. The locks here are the
second wall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from actors.runtime.errors import PermanentError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: What one job's DuckDB may hold in memory; beyond that it spills.
MEMORY: Final = "256MB"
#: What it may spill to disk.
SPILL: Final = "2GB"
THREADS: Final = 2
#: Seconds that all of a job's queries may take.
TIME_LIMIT_S: Final = 240.0
#: Seconds between two looks at whether the job should stop.
LOOK_EVERY_S: Final = 0.05


class Engine:
    """A connection whose queries end when the job is cancelled or out of time."""

    def __init__(self, connection: DuckDBPyConnection, stopped: Callable[[], None]) -> None:
        self._connection = connection
        self._stopped = stopped

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
          PermanentError: it needs more memory, disk or time than there is. JobCancelled: see ``job.check()``.
        """
        import duckdb

        self._stopped()
        try:
            return self._connection.execute(sql, list(parameters)).fetchall()
        except duckdb.InterruptException:
            self._stopped()
            raise
        except duckdb.OutOfMemoryException:
            raise PermanentError(f"the query needs more than {MEMORY} of memory and {SPILL} of disk") from None

    def batches(self, sql: str, parameters: Sequence[Any] = (), *, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """The same, ``size`` rows at a time."""
        import duckdb

        self._stopped()
        try:
            cursor = self._connection.execute(sql, list(parameters))
            while rows := cursor.fetchmany(size):
                yield rows
        except duckdb.InterruptException:
            self._stopped()
            raise
        except duckdb.OutOfMemoryException:
            raise PermanentError(f"the query needs more than {MEMORY} of memory and {SPILL} of disk") from None


@contextmanager
def engine_on(
    folder: Path, readable: Path, check: Callable[[], None], *, time_limit_s: float = TIME_LIMIT_S
) -> Iterator[Engine]:
    """A DuckDB for one job.

    Args:
      folder: the job's own; what is spilled lies there.
      readable: the one file that queries may read.
      check: raises when the job should stop; asked from another thread too.
      time_limit_s: seconds from now until every query is stopped.
    """
    import duckdb

    deadline = monotonic() + time_limit_s

    def stopped() -> None:
        check()
        if monotonic() > deadline:
            raise PermanentError(f"the queries took longer than {time_limit_s:g} s; ask for less, or of fewer rows")

    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": MEMORY,
            "threads": THREADS,
            "temp_directory": str(folder / "spilled"),
            "max_temp_directory_size": SPILL,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "preserve_insertion_order": False,
        },
    )
    over = Event()

    def watch() -> None:
        # DuckDB computes in C, where no exception of Python's reaches it. An interrupt between two queries is lost,
        # so it is repeated.
        while not over.wait(LOOK_EVERY_S):
            try:
                stopped()
            except Exception:  # noqa: BLE001 - whatever it is, the job's own thread will raise it
                connection.interrupt()

    try:
        connection.execute("SET allowed_paths = [" + quoted(readable) + "]")
        connection.execute("SET enable_progress_bar = false")  # it would print into the worker's log
        # In this order: each locks what was set before.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        watcher = Thread(target=watch, name="duckdb-watch", daemon=True)
        watcher.start()
        try:
            yield Engine(connection, stopped)
        finally:
            over.set()
            watcher.join()
    finally:
        connection.close()


def quoted(path: Path) -> str:
    """A path of ours as a SQL literal."""
    return "'" + str(path).replace("'", "''") + "'"
