"""``./callboard operators``: people who may sign in to the board."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dev.administration import show, tables
from dev.console import Fault
from dev.home import Home, read_json
from models import tenancy

app = typer.Typer(no_args_is_help=True, help="People who may sign in to the board.")
#: Characters of a password at least.
PASSWORD_LENGTH = 12

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user name.")]


@app.command("set")
def set_(name: Name) -> None:
    """Make an operator, or change the password (asked for, or one line of standard input), which ends all sessions."""
    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < PASSWORD_LENGTH:
        raise Fault(f"a password has at least {PASSWORD_LENGTH} characters; nothing was changed")
    with tables("operators set") as connection:
        tenancy.set_operator(connection, name, password)
    typer.echo(f"{name} signs in with this password from now on")


@app.command()
def link(
    name: Name,
    tenant: Annotated[str, typer.Option(help="Whose board it opens.")] = tenancy.DEFAULT_TENANT,
) -> None:
    """Print a link that signs in once, within a day; it works also while a password must wait."""
    with tables("operators link") as connection:
        token = tenancy.create_sign_in_link(connection, name, tenant)
    typer.echo(f"{read_json(Home().up_json).get('url', '')}/sign-in?token={token}")


@app.command()
def remove(name: Name) -> None:
    """Delete an operator; all sessions and links end."""
    with tables("operators remove") as connection:
        found = tenancy.delete_operator(connection, name)
    if not found:
        raise Fault(f"there is no operator {name!r}")
    typer.echo(f"removed {name}")


@app.command("list")
def list_() -> None:
    """Show all operators."""
    with tables("operators list") as connection:
        show(("username", "created_at"), tenancy.list_operators(connection))
