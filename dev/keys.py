"""``./callboard keys``: API keys of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from psycopg.errors import UndefinedTable
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from dev.borrowed import servers
from dev.console import Fault
from dev.environment import check_settings
from models import tenancy
from models.engine import make_engine, transaction

app = typer.Typer(no_args_is_help=True, help="API keys of tenants.")


@contextmanager
def _connection(command: str) -> Iterator[Connection]:
    with servers(f"keys {command}") as borrowed:
        engine = make_engine(check_settings(borrowed.variables), pool_size=1)
        try:
            with transaction(engine).begin() as connection:
                yield connection
        except ProgrammingError as error:
            if isinstance(error.orig, UndefinedTable):
                raise Fault("the database has no tables of ours yet: run ./callboard migrate") from None
            raise
        finally:
            engine.dispose()


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key; the tenant is made if need be.")],
    label: Annotated[str | None, typer.Option(help="To recognise it by.")] = None,
) -> None:
    """Make a key and print it: it is shown this once."""
    with _connection("create") as connection:
        tenancy.ensure_tenant(connection, tenant)
        key = tenancy.create_key(connection, tenant, label)
    typer.echo(key)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, or the whole key.")]) -> None:
    """Make a key useless from now on."""
    if parts := tenancy.split_key(key_id):
        key_id = parts[0]
    with _connection("revoke") as connection:
        found = tenancy.revoke_key(connection, key_id)
    if not found:
        raise Fault(f"there is no live key {key_id}")
    typer.echo(f"revoked {key_id}")


@app.command("list")
def list_() -> None:
    """Show all keys, without their secrets."""
    columns = ("id", "tenant_id", "label", "created_at", "last_used_at", "revoked_at")
    with _connection("list") as connection:
        rows = [[_show(getattr(key, name)) for name in columns] for key in tenancy.list_keys(connection)]
    widths = [max(len(line[i]) for line in [list(columns), *rows]) for i in range(len(columns))]
    for line in [list(columns), *rows]:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _show(value: object) -> str:
    if value is None:
        return "-"
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else str(value)
