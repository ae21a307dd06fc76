"""The modules of CALLBOARD_ACTORS, imported in a process of their own as a worker would import them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, Final

from dev.checking.finding import Context, Finding, error

#: Seconds that the imports may take.
PATIENCE_S: Final = 120
_WHY: Final = "A worker with this setting ends before it takes a job"


def actor_modules(context: Context) -> Iterable[Finding]:
    """Each can be imported, and its actors are on Callboard's broker."""
    modules = ["actors", *(name for name in context.settings.actors if name != "actors")]
    try:
        told = _import(modules, context)
    except subprocess.TimeoutExpired:
        yield error(
            "actors-import",
            f"Importing {', '.join(modules)} takes longer than {PATIENCE_S} s",
            "A worker would not get ready",
            "Let modules connect to nothing while they are imported",
        )
        return
    for module, reason in told["failed"].items():
        yield error(
            "actors-import",
            f"{module} cannot be imported: {reason}",
            _WHY,
            "Put it right, install what it needs, or take it out of CALLBOARD_ACTORS",
        )
    if told["elsewhere"]:
        yield error(
            "actors-elsewhere",
            f"These actors are bound to another broker: {', '.join(told['elsewhere'])}",
            "Their messages get no row, and a worker refuses to start with them",
            "Import actors before the modules that declare them",
        )


def _import(modules: list[str], context: Context) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dev.checking.import_probe", *modules],
        env=dict(context.variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"the importing process ended with code {done.returncode}: {said}"
        return {"failed": {", ".join(modules): reason}, "elsewhere": []}
