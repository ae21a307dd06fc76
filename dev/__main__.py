"""Callboard's command line."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Annotated

import typer

from dev.console import Fault, say
from dev.home import ROOT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A Dramatiq actor system whose every job is a durable row in Postgres.",
)
#: Everything after the command's name belongs to somebody else.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the web app; 0 takes any free one.")] = 8000,
) -> None:
    """Boot servers, workers, cron and web; Ctrl-C ends them."""
    from dev.up import Up

    Up(port).run()


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run any command with this folder's environment and servers: run -- CMD."""
    from dev.run import run as run_command

    if not context.args:
        raise Fault("run what? for instance: ./callboard run -- python")
    sys.exit(run_command(context.args))


@app.command()
def migrate() -> None:
    """Bring the database up to date."""
    from dev.borrowed import servers

    with servers("migrate") as borrowed:
        os.environ.update(borrowed.variables)
        os.chdir(ROOT)
        from dev.environment import read_environment
        from dev.migrations import upgrade

        upgrade(views="DATABASE_URL" in read_environment().embedded)
    say("the database is up to date")


@app.command(context_settings=_PASS_THROUGH)
def test(context: typer.Context) -> None:
    """Run all checks and tests; with arguments, pytest alone with these."""
    from dev.checks import run_checks

    sys.exit(run_checks(context.args))


@cache
def add_groups() -> None:
    """Add what most calls do not need and what is slow to import."""
    from dev import keys
    from dev.import_bun import import_bun

    app.add_typer(keys.app, name="keys")
    app.command()(import_bun)


def main() -> None:
    """Run the command; a fault is one line and exit code 1."""
    try:
        if sys.argv[1:2] in (["keys"], ["import-bun"]) or "--help" in sys.argv[1:2] or len(sys.argv) == 1:
            add_groups()
        app(prog_name="./callboard")
    except Fault as fault:
        say(str(fault))
        sys.exit(1)
    except Exception as error:
        # Imported here, because most commands need no database library.
        from sqlalchemy.exc import OperationalError

        from models.errors import CallboardError

        if isinstance(error, OperationalError):
            say(f"cannot reach the database: {str(error.orig).strip().splitlines()[-1].strip()}")
        elif isinstance(error, CallboardError):
            say(str(error))
        else:
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
