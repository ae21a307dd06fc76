"""Starting children that cannot outlive us, and ending them for certain."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from dev.accounts import Account, as_user

#: Marks every process that ``up`` started, and theirs, with the folder of the clone.
MARK = "CALLBOARD_UP_FOLDER"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    death_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, its output appended to a file.

    A file and not a pipe: a terminal that is not read cannot stop the child, and the child survives us long enough
    to end in good order.

    Args:
      death_signal: what the kernel sends the child when we are killed (Linux; elsewhere the next start cleans up).
      account: the user to run as; None for our own.
    """
    parent = os.getpid()

    def before_exec() -> None:  # runs in the child, after the change of user (which would clear the setting)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        return subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509 - touches nothing but prctl
            **as_user(account),
        )


def tell(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal; a process that has ended is none of our business."""
    if process.poll() is None:
        process.send_signal(number)


def end(
    process: subprocess.Popen[bytes],
    number: signal.Signals,
    grace_s: float,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Ask a child to end, and kill it and its process group after ``grace_s``."""
    tell(process, number)
    deadline = time.monotonic() + grace_s
    while process.poll() is None and time.monotonic() < deadline:
        pause(0.02)
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of a child's process group, and collect the child."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all gone (macOS says the second of zombies)
        pass
    process.wait()


def describe_exit(code: int) -> str:
    """How a process ended, for the reader."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


def marked(folder: Path) -> list[psutil.Process]:
    """Living processes that an ``up`` of this folder started, directly or not, without us and our parents."""
    own = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid not in own and process.environ().get(MARK) == str(folder)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return found


def end_all(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """SIGTERM, then after ``grace_s`` SIGKILL, for processes that are not our children."""
    left = list(processes)
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for process in left:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        _, left = psutil.wait_procs(left, timeout=wait_s)
