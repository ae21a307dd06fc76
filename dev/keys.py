"""``./callboard keys``: API keys of tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from dev.administration import show, tables
from dev.console import Fault
from models import tenancy

app = typer.Typer(no_args_is_help=True, help="API keys of tenants.")


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key; the tenant is made if need be.")],
    label: Annotated[str | None, typer.Option(help="To recognise it by.")] = None,
) -> None:
    """Make a key and print it: it is shown this once."""
    with tables("keys create") as connection:
        tenancy.ensure_tenant(connection, tenant)
        key = tenancy.create_key(connection, tenant, label)
    typer.echo(key)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, or the whole key.")]) -> None:
    """Make a key useless from now on."""
    if parts := tenancy.split_key(key_id):
        key_id = parts[0]
    with tables("keys revoke") as connection:
        found = tenancy.revoke_key(connection, key_id)
    if not found:
        raise Fault(f"there is no live key {key_id}")
    typer.echo(f"revoked {key_id}")


@app.command("list")
def list_() -> None:
    """Show all keys, without their secrets."""
    with tables("keys list") as connection:
        show(tenancy.ApiKey._fields, tenancy.list_keys(connection))
