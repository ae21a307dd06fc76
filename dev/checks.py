"""``./callboard test``: every check that guards main, in one command, here and in continuous integration."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev import debian
from dev.accounts import postgres_account
from dev.console import Fault, say
from dev.home import ROOT
from dev.postgres import Installation, Postgres
from dev.valkey import Valkey

#: The oldest servers we promise to run on, as Debian 12 has them.
OLD_POSTGRES = Path("/usr/lib/postgresql/15/bin")
OLD_REDIS = "redis-server"

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
        return _python(["-m", "pytest", *arguments])
    missing = debian.install(["chromium", *(["postgresql-15", "redis-server"] if in_ci() else [])])
    if shutil.which("chromium") is None:
        if in_ci():
            raise Fault(f"continuous integration needs these Debian packages: {' '.join(missing)}")
        say("no Chromium here: browser tests will skip (apt-get install chromium)")
    outcome: dict[str, tuple[bool, float]] = {}

    def step(name: str, arguments: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        code = _python(arguments, more)
        outcome[name] = (code == 0, time.monotonic() - start)

    for name, command in STATIC_CHECKS.items():
        step(name, command)
    step("tests", ["-m", "pytest"])
    if in_ci():
        with old_servers() as addresses:
            step("integration on PostgreSQL 15 and Redis 7", ["-m", "pytest", "tests/integration"], addresses)
    print()
    for name, (passed, seconds) in outcome.items():
        print(f"{'passed' if passed else 'FAILED'}  {name}  ({seconds:.0f} s)")
    return 0 if all(passed for passed, _ in outcome.values()) else 1


def _python(arguments: Sequence[str], more: Mapping[str, str] | None = None) -> int:
    environment = {**os.environ, **(more or {})}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=False).returncode


@contextmanager
def old_servers() -> Iterator[dict[str, str]]:
    """Debian's PostgreSQL 15 and redis-server on free ports with throw-away data.

    Yields:
      The variables that point tests at them.
    """
    redis_binary = shutil.which(OLD_REDIS)
    if redis_binary is None or not (OLD_POSTGRES / "postgres").exists():
        raise Fault("PostgreSQL 15 and redis-server are not installed: apt-get install postgresql-15 redis-server")
    folder = Path(tempfile.mkdtemp(prefix="callboard-old-"))
    folder.chmod(0o711)
    password = secrets.token_urlsafe(16)
    postgres = Postgres(
        Installation(OLD_POSTGRES, folder / "postgres", postgres_account()),
        log=folder / "postgres.log",
        port=None,
        password=password,
        durable=False,
    )
    redis = Valkey(
        folder / "redis",
        log=folder / "redis.log",
        port=None,
        password=password,
        binary=Path(redis_binary),
        durable=False,
    )
    try:
        postgres.boot()
        redis.boot()
        yield {"CALLBOARD_TEST_DATABASE_URL": postgres.url(), "CALLBOARD_TEST_REDIS_URL": redis.url}
    finally:
        redis.stop()
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
