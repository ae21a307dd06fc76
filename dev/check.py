"""``./callboard check``: what is wrong or unwise, a line each, with the reason and the remedy."""

from __future__ import annotations

import json

import typer

from dev.borrowed import servers
from dev.checking.checks import Report, examine
from dev.checking.finding import Level, error
from dev.console import Fault
from dev.environment import check_settings, read_environment
from models.settings import SettingsError


def check(*, as_json: bool) -> int:
    """Print what was found; returns 1 when there is an error among it."""
    report = look()
    show_json(report) if as_json else show(report)
    return 1 if any(finding.level is Level.ERROR for finding in report.findings) else 0


def look() -> Report:
    """Examine this folder's environment, with its own servers where it names none."""
    try:
        embedded = read_environment().embedded
    except Fault as fault:
        return _not_even_settings(fault)
    with servers("check") as borrowed:
        return examine(borrowed.variables, check_settings(borrowed.variables), embedded=embedded)


def _not_even_settings(fault: Fault) -> Report:
    faults = fault.__cause__.faults if isinstance(fault.__cause__, SettingsError) else (str(fault),)
    found = [
        error("settings", said, "No process of Callboard starts with that", "See .env.example for what each one means")
        for said in faults
    ]
    return Report(found, ["settings"], {})


def show(report: Report) -> None:
    """For people: errors first."""
    for finding in sorted(report.findings, key=lambda finding: finding.level):  # stable: in the order of the checks
        typer.echo(finding.line)
    for lacking in sorted(set(report.left_out.values())):
        names = [name for name, what in report.left_out.items() if what == lacking]
        typer.echo(f"not asked without {lacking}: {', '.join(names)}")
    errors = sum(finding.level is Level.ERROR for finding in report.findings)
    typer.echo(f"{len(report.asked)} checks: {errors} error(s), {len(report.findings) - errors} warning(s)")


def show_json(report: Report) -> None:
    """For programs."""
    document = {
        "findings": [finding._asdict() for finding in report.findings],
        "asked": report.asked,
        "left_out": report.left_out,
    }
    typer.echo(json.dumps(document, indent=2))
