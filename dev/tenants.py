"""``./callboard tenants``: who owns jobs, keys and feeds."""

from __future__ import annotations

from typing import Annotated

import typer

from dev.administration import show, tables
from dev.console import Fault
from models import tenancy

app = typer.Typer(no_args_is_help=True, help="Tenants: owners of jobs, keys and feeds.")


@app.command()
def create(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Make a tenant."""
    if fault := tenancy.tenant_fault(name):
        raise Fault(f"the name {fault}")
    with tables("tenants create") as connection:
        is_new = tenancy.ensure_tenant(connection, name)
    if not is_new:
        raise Fault(f"there is a tenant {name!r} already")
    typer.echo(f"created {name}")


@app.command("list")
def list_() -> None:
    """Show all tenants."""
    with tables("tenants list") as connection:
        show(("id", "created_at"), connection.execute(tenancy.all_tenants()).all())
