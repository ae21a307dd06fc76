"""``./callboard jobs``: look at jobs and change them, as the API does, without a key or a browser."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from psycopg.errors import UndefinedTable
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, ProgrammingError

from actors.runtime.bell import Bell
from actors.runtime.job_type import payload_of
from actors.runtime.resources import Resources
from dev.borrowed import servers
from dev.console import Fault, say
from models import diagnosis, ledger, queries, tenancy
from models.newest import Wanted
from models.rows import Row, all_rows, one_row
from models.settings import get_settings
from models.state import Status, refusal
from web.job_json import job_json

app = typer.Typer(no_args_is_help=True, help="Look at jobs, retry and cancel them.")

#: Seconds that browsers' news of a change may take to leave this process; without it they read it a moment later.
FAREWELL_S = 2.0
#: Characters of an error in the list.
ERROR_WIDTH = 60

_Id = Annotated[str, typer.Argument(metavar="ID", help="Of the job.")]
_Json = Annotated[bool, typer.Option("--json", help="As the API shows it.")]


@contextmanager
def _resources(command: str) -> Iterator[Resources]:
    with servers(f"jobs {command}") as borrowed:
        os.environ.update(borrowed.variables)
        get_settings.cache_clear()
        resources = Resources()
        try:
            yield resources
        except ProgrammingError as error:
            if isinstance(error.orig, UndefinedTable):
                raise Fault("the database has no tables of ours yet: run ./callboard migrate") from None
            raise
        finally:
            resources.close()


@app.command("list")
def list_(
    *,
    tenant: Annotated[str, typer.Option(help="Whose jobs.")] = tenancy.DEFAULT_TENANT,
    status: Annotated[list[Status] | None, typer.Option(case_sensitive=False, help="Only these; repeatable.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only of this type (actor).")] = None,
    queue: Annotated[str | None, typer.Option(help="Only in this queue.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: _Json = False,
) -> None:
    """Show the newest jobs of a tenant."""
    wanted = Wanted(tuple(status or ()), job_type, queue, limit=limit)
    with _resources("list") as resources, resources.engine.connect() as connection:
        rows = all_rows(connection.execute(queries.page_of_jobs(wanted.shape), wanted.values(tenant)))
        if as_json:
            _know_actors(resources)
            typer.echo(json.dumps({"jobs": [job_json(row) for row in rows]}, indent=2))
            return
    if not rows:
        say(f"no such jobs of the tenant {tenant}")
        return
    head = ("id", "type", "status", "attempts", "queue", "updated", "error")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    error = row["error"] or row["result_error"] or ""
    short = error if len(error) <= ERROR_WIDTH else f"{error[: ERROR_WIDTH - 1]}…"
    return (str(row["id"]), row["actor"], row["status"], _attempts(row), row["queue"], _time(row["updated_at"]), short)


@app.command()
def show(job_id: _Id, as_json: _Json = False) -> None:
    """Show all that is known of one job: payload, result, every error with its traceback, its log."""
    with _resources("show") as resources, resources.engine.connect() as connection:
        row = _find(connection, job_id)
        _know_actors(resources)
    if as_json:
        typer.echo(json.dumps(job_json(row), indent=2))
        return
    for line in describe(row):
        typer.echo(line)


def describe(row: Row) -> Iterator[str]:
    """One job for the person who was woken because of it."""
    payload = payload_of(row["actor"], row["args"], row["kwargs"])
    facts = {
        "job": row["id"],
        "type": f"{row['actor']}  (queue {row['queue']}, priority {row['priority']}, tenant {row['tenant_id']})",
        "status": f"{row['status']}  (attempts {_attempts(row)}, crashes {row['crashes']})",
        "created": _time(row["created_at"]),
        "due": _time(row["run_at"]) if row["status"] == Status.PENDING else None,
        "started": _time(row["started_at"]),
        "finished": _time(row["finished_at"]),
        "cancel": f"asked for at {_time(row['cancel_requested_at'])}" if row["cancel_requested_at"] else None,
        "unique": row["unique_key"],
        "payload": _compact(payload),
        "progress": _compact(row["progress"]) if row["progress"] else None,
        "error": row["error"],
        "result": row["result_error"] or (_compact(row["result"]) if row["status"] == Status.COMPLETED else None),
    }
    yield from (f"{name:<9} {value}" for name, value in facts.items() if value not in (None, "-"))
    for entry in row["errors"]:
        said = ": ".join(filter(None, (entry.get("class"), entry.get("message"))))
        yield f"\nattempt {entry.get('attempt')} {entry.get('kind')} at {entry.get('ended_at')}: {said}"
        yield f"  on worker {entry.get('worker')}"
        yield from (f"  {line}" for line in (entry.get("traceback") or "").splitlines())
    if row["log"]:
        yield "\nlog:"
    for line in row["log"]:
        at = datetime.fromtimestamp(line["at"], UTC)
        yield f"  {_time(at)} (attempt {line['attempt']}) {line['text']}"
    yield f"\n{_what_next(row)}"


def _what_next(row: Row) -> str:
    match row["status"]:
        case Status.FAILED | Status.CANCELLED:
            return f"Run it again: ./callboard jobs retry {row['id']}"
        case Status.PENDING | Status.RUNNING:
            return f"Stop it: ./callboard jobs cancel {row['id']}"
        case _:
            return "It is done."


@app.command()
def retry(job_id: _Id) -> None:
    """Give a failed or cancelled job another attempt, now."""
    _change(job_id, "retry", ledger.replay())


@app.command()
def cancel(job_id: _Id) -> None:
    """Cancel a waiting job, or ask a running one to stop."""
    _change(job_id, "cancel", ledger.cancel())


def _change(job_id: str, verb: str, statement: Any) -> None:
    with _resources(verb) as resources:
        with resources.engine.connect() as connection:
            before = _find(connection, job_id)
            parameters = {"tenant": before["tenant_id"], "job_id": before["id"]}
            try:
                changed = all_rows(connection.execute(statement, parameters))
            except IntegrityError as error:
                if "uq_jobs_unique_slot" not in str(error.orig):
                    raise
                raise Fault("Another job holds this job's unique key now; nothing was changed.") from None
            after = _find(connection, job_id)
        if not changed:
            raise Fault(refusal(verb, after["status"]))
        bell = Bell(resources)
        bell.announce(changed)
        bell.flush(FAREWELL_S)
    asked = ", its attempt was asked to stop" if after["status"] == Status.RUNNING else ""
    typer.echo(f"{after['id']} is {after['status']}{asked}")


def _find(connection: Connection, job_id: str) -> Row:
    try:
        wanted = UUID(job_id)
    except ValueError:
        raise Fault(f"{job_id} is no job id (a UUID)") from None
    tenant = connection.execute(diagnosis.tenant_of(), {"job_id": wanted}).scalar_one_or_none()
    row = one_row(connection.execute(queries.one_job(), {"tenant": tenant, "job_id": wanted})) if tenant else None
    if row is None:
        raise Fault(f"there is no job {wanted}: never sent here, rolled back, or past its retention")
    return row


def _know_actors(resources: Resources) -> None:
    """Payloads are shown by their wire names where the type can be imported."""
    for module in ("actors", *resources.settings.actors):
        with suppress(Exception):
            importlib.import_module(module)


def _attempts(row: Mapping[str, Any]) -> str:
    return f"{row['attempts']} of {row['max_attempts'] or 'any number'}"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _time(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at is not None else "-"
