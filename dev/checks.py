"""``./callboard test``: every check that guards main, in one command, here and in continuous integration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev import debian
from dev.console import Fault, say
from dev.home import ROOT

#: The oldest servers we promise to run on, as Debian 12 has them.
OLD_POSTGRES = Path("/usr/lib/postgresql/15/bin")
OLD_REDIS = "redis-server"

PYTEST: Sequence[str] = ("-m", "pytest")
#: Two processes beside each other, each with servers of its own: most tests wait more than they compute.
BESIDE: Sequence[str] = ("--numprocesses", "2", "--dist", "loadgroup", "--verbose")

#: What failed in the run before and nothing else; with nothing to do it ends with 5.
LAST_FAILED: Sequence[str] = ("--last-failed", "--last-failed-no-failures", "none")
#: pytest's exit code when all tests ran and some failed.
SOME_FAILED = 1

#: Names and command lines, run with this environment's Python.
STATIC_CHECKS: Mapping[str, Sequence[str]] = {
    "ruff": ("-m", "ruff", "check", "."),
    "format": ("-m", "ruff", "format", "--check", "."),
    "mypy": ("-m", "mypy"),
    "imports": ("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"),
}


def in_ci() -> bool:
    """Whether nobody is there to read a skipped test's reason."""
    return os.environ.get("CI") == "true"


def run_checks(arguments: Sequence[str]) -> int:
    """Run everything, or pytest alone with these arguments.

    Returns:
      0 when all is well.
    """
    if arguments:
        return _python([*PYTEST, *arguments])
    missing = debian.install(["chromium", *(["postgresql-15", "redis-server"] if in_ci() else [])])
    if shutil.which("chromium") is None:
        if in_ci():
            raise Fault(f"continuous integration needs these Debian packages: {' '.join(missing)}")
        say("no Chromium here: browser tests will skip (apt-get install chromium)")
    outcome: dict[str, tuple[bool, float]] = {}

    def step(name: str, arguments: Sequence[str], more: Mapping[str, str] | None = None) -> int:
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        code = _python(arguments, more)
        outcome[name] = (code == 0, time.monotonic() - start)
        return code

    def tests(name: str, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        if step(name, [*PYTEST, *BESIDE, *arguments], more) == SOME_FAILED:
            # Beside another one a test may lose its patience: then it has to pass with the machine to itself.
            step(f"{name}: what failed, alone", [*PYTEST, *LAST_FAILED, *arguments], more)
            outcome[name] = (outcome[f"{name}: what failed, alone"][0], outcome[name][1])

    for name, command in STATIC_CHECKS.items():
        step(name, command)
    tests("tests")
    if in_ci():
        tests("integration on PostgreSQL 15 and Redis 7", "-m", "not once", "tests/integration", more=old_servers())
    print()
    for name, (passed, seconds) in outcome.items():
        print(f"{'passed' if passed else 'FAILED'}  {name}  ({seconds:.0f} s)")
    return 0 if all(passed for passed, _ in outcome.values()) else 1


def _python(arguments: Sequence[str], more: Mapping[str, str] | None = None) -> int:
    environment = {**os.environ, **(more or {})}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=False).returncode


def old_servers() -> dict[str, str]:
    """The variables that let tests boot Debian's PostgreSQL 15 and redis-server instead of the embedded ones.

    Raises:
      Fault: they are not installed.
    """
    redis_binary = shutil.which(OLD_REDIS)
    if redis_binary is None or not (OLD_POSTGRES / "postgres").exists():
        raise Fault("PostgreSQL 15 and redis-server are not installed: apt-get install postgresql-15 redis-server")
    return {"CALLBOARD_TEST_POSTGRES_BIN": str(OLD_POSTGRES), "CALLBOARD_TEST_REDIS_BIN": redis_binary}
