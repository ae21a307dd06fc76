"""What tests of every kind share: waiting with a deadline, places, and what to do when a service is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from dev.home import ROOT

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], timeout: float = 10.0, *, interval: float = 0.02, what: str = "") -> T:
    """Call ``predicate`` until it returns something true, and return that.

    Args:
      predicate: asked again and again; an ``AssertionError`` it raises counts as "not yet".
      timeout: seconds until this gives up.
      interval: seconds between two questions.
      what: what is waited for, for the failure's text.

    Raises:
      AssertionError: it did not become true in time; carries the predicate's last answer or complaint.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            answer = predicate()
            if answer:
                return answer
            last = answer
        except AssertionError as complaint:
            last = complaint
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__name__", "condition")
            raise AssertionError(f"{name}: not within {timeout:g} s; last answer: {last!r}")
        time.sleep(interval)


def missing(what: str) -> NoReturn:
    """Skip on a developer's machine, fail in continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def scratch_folder(mode: int = 0o711) -> Iterator[Path]:
    """A temporary folder that other users can pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="callboard-test-"))
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def callboard(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``./callboard`` with these arguments and none of Callboard's variables but these."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
    return subprocess.run(
        [sys.executable, "-m", "dev", *arguments],
        cwd=ROOT,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
