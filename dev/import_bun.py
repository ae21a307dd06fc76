"""``./callboard import-bun``: bring in the ``Job`` table of the Bun worker (docs/how-to/from-bun-worker.md)."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import psycopg
import typer
from psycopg import sql
from sqlalchemy import Engine

from dev.borrowed import servers
from dev.bun_jobs import OldJob, Past, Refused, past_of
from dev.console import Fault, say
from dev.environment import check_settings
from models import tenancy
from models.arrays import parameters
from models.engine import make_engine, transaction
from models.history import bring_in
from models.settings import Settings, get_settings
from models.state import Status

#: Rows per transaction; a run that was cut off is simply repeated.
BATCH = 500
#: Rows of a kind that are named one by one.
NAMED = 20
_COLUMNS = ("id", "tenantId", "type", "payload", "status", "attempts", "error", "createdAt", "updatedAt")


@dataclass
class Report:
    """What came of it."""

    brought: Counter[str] = field(default_factory=Counter)
    here_already: int = 0
    ended: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tenants: set[str] = field(default_factory=set)
    past_retention: int = 0

    def lines(self, *, dry_run: bool) -> Iterator[str]:
        """The report as text."""
        verb = "would bring in" if dry_run else "brought in"
        numbers = ", ".join(f"{number} {status}" for status, number in sorted(self.brought.items()))
        yield f"{verb} {self.brought.total()} jobs ({numbers or 'none'}); {self.here_already} were here already"
        if self.ended:
            yield f"{len(self.ended)} that were to run cannot, and are FAILED with the reason:"
            yield from self._some(self.ended)
        if self.refused:
            yield f"{len(self.refused)} were left where they are:"
            yield from self._some(self.refused)
        if self.past_retention:
            yield (
                f"{self.past_retention} ended longer ago than CALLBOARD_RETENTION_COMPLETED or _FAILED allow: the "
                "pruner deletes them within minutes unless you raise those first"
            )
        if self.tenants:
            yield f"tenants made: {', '.join(sorted(self.tenants))}; a key for each: ./callboard keys create --tenant …"

    @staticmethod
    def _some(lines: list[str]) -> Iterator[str]:
        yield from (f"  {line}" for line in lines[:NAMED])
        if len(lines) > NAMED:
            yield f"  … and {len(lines) - NAMED} more"


def import_bun(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The old system's database.")],
    table: Annotated[str, typer.Option(help="The table there, with its schema if need be.")] = "Job",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
) -> None:
    """Bring in the jobs of the Bun worker's Job table; repeat it as often as you like."""
    with servers("import-bun") as borrowed:
        os.environ.update(borrowed.variables)
        get_settings.cache_clear()
        settings = check_settings(borrowed.variables)
        for module in ("actors", *settings.actors):
            importlib.import_module(module)
        engine = make_engine(settings, pool_size=1)
        try:
            report = bring_all(source, table, engine, settings, dry_run=dry_run)
        except psycopg.OperationalError as error:
            raise Fault(f"cannot reach the old database: {str(error).strip().splitlines()[-1]}") from None
        finally:
            engine.dispose()
    for line in report.lines(dry_run=dry_run):
        typer.echo(line)


def bring_all(source: str, table: str, engine: Engine, settings: Settings, *, dry_run: bool = False) -> Report:
    """Read the old table in one snapshot, in order of creation, and bring in what is not here yet.

    Args:
      source: libpq URL of the old database. table: its name there, with its schema if need be.

    Raises:
      Fault: there is no such table.
    """
    from actors.runtime.job_type import job_types

    kinds, report = job_types(), Report()
    with psycopg.connect(source, application_name="callboard-import") as old:
        old.read_only = True
        rows = _read(old, table)
        while batch := list(islice(rows, BATCH)):
            pasts = []
            for row in batch:
                try:
                    pasts.append(past_of(row, kinds))
                except Refused as refused:
                    report.refused.append(f"{row.id}: {refused}")
            _store(engine, pasts, report, settings, dry_run=dry_run)
            say(f"{report.brought.total() + report.here_already + len(report.refused)} rows read")
    return report


def _read(old: psycopg.Connection[tuple[object, ...]], table: str) -> Iterator[OldJob]:
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name))
        if name in ("id", "tenantId", "type", "payload", "status")
        else sql.Identifier(name)
        for name in _COLUMNS
    )
    statement = sql.SQL('SELECT {} FROM {} ORDER BY "createdAt", "id"').format(
        columns, sql.Identifier(*table.split("."))
    )
    with old.cursor("callboard_import") as cursor:
        cursor.itersize = BATCH
        try:
            cursor.execute(statement)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise Fault(f"the old database has no such table: {error.diag.message_primary}") from None
        for row in cursor:
            yield OldJob(*row)  # type: ignore[arg-type]


def _store(engine: Engine, pasts: list[Past], report: Report, settings: Settings, *, dry_run: bool) -> None:
    if not pasts:
        return
    columns = {name: [past.columns[name] for past in pasts] for name in pasts[0].columns}
    with transaction(engine).connect() as connection:
        new = {tenant for tenant in set(columns["tenant_id"]) if tenancy.ensure_tenant(connection, tenant)}
        rows = connection.execute(bring_in(), parameters("past", **columns)).all()
        if dry_run:
            connection.rollback()
        else:
            connection.commit()
    report.tenants |= new
    report.brought.update(row.status for row in rows)
    report.here_already += len(pasts) - len(rows)
    here = {row.id for row in rows}
    for past in pasts:
        if past.columns["id"] not in here:
            continue
        report.past_retention += _is_past_retention(past, settings)
        if past.ended_because is not None:
            report.ended.append(f"{past.columns['id']} ({past.columns['actor']}): {past.ended_because}")


def _is_past_retention(past: Past, settings: Settings) -> bool:
    kept = {Status.COMPLETED: settings.retention_completed, Status.FAILED: settings.retention_failed}
    age = datetime.now(UTC) - datetime.fromisoformat(past.columns["updated_at"])
    return past.columns["status"] in kept and age > kept[past.columns["status"]]
