"""What the commands for keys, tenants and operators share: a transaction on our tables, and a table on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import typer
from psycopg.errors import UndefinedTable
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from dev.borrowed import servers
from dev.console import Fault
from dev.environment import check_settings
from models.engine import make_engine, transaction

#: Milliseconds that a transaction may wait for us: a password takes a while on a busy machine.
PATIENCE_MS: Final = "60000"


@contextmanager
def tables(command: str) -> Iterator[Connection]:
    """A transaction as the tables' owner, on this folder's or the configured database.

    Args:
      command: what the user called, for those who have to wait for us.
    """
    with servers(command) as borrowed:
        settings = check_settings(borrowed.variables)
        engine = make_engine(settings, pool_size=1, idle_in_transaction_session_timeout=PATIENCE_MS)
        try:
            with transaction(engine).begin() as connection:
                yield connection
        except ProgrammingError as error:
            if isinstance(error.orig, UndefinedTable):
                raise Fault("the database has no tables of ours yet: run ./callboard migrate") from None
            raise
        finally:
            engine.dispose()


def show(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, its columns as wide as they must be."""
    lines = [list(head), *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else str(value)
