"""A copy of this working tree to run ``./callboard`` in, as a user would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dev.accounts import Account, as_user
from dev.home import ROOT
from models.settings import variables
from tests.support import wait_for

#: Seconds until ``up`` must be ready in a warm environment; generous, because tests share the machine.
READY_S = 90.0
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".venv.lock", ".callboard", "__pycache__", ".*_cache", "node_modules", ".env", ".env.local"
)


class Clone:
    """One copy.

    Args:
      folder: where it lies; must not exist.
      account: whom to run as and to give the copy to; None for ourselves.
      own_environment: whether it gets a .venv/ of its own.
    """

    def __init__(self, folder: Path, account: Account | None = None, *, own_environment: bool = False) -> None:
        self.folder = folder
        self.account = account
        shutil.copytree(ROOT, folder, ignore=_LEFT_OUT, symlinks=True)
        self._share_environment(own=own_environment)
        if account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)

    def _share_environment(self, *, own: bool) -> None:
        """Use the tree's own .venv/, linked file by file where that is asked for or the original out of reach."""
        original, here = (ROOT / ".venv").resolve(), self.folder / ".venv"
        if not own and (self.account is None or self.account.may(original / "bin" / "python", "-c", "")):
            here.symlink_to(original)
            return
        shutil.copytree(original, here, symlinks=True, copy_function=os.link)
        stamp = here / "callboard.stamp"
        stamp.unlink()
        stamp.write_text(f"{here}\n{(ROOT / 'requirements.txt').read_text()}")

    @property
    def up_json(self) -> dict[str, Any]:
        """What a running ``up`` tells other programs."""
        return dict(json.loads((self.folder / ".callboard" / "up.json").read_text()))

    def environment(self, **more: str) -> dict[str, str]:
        """Our environment without anything that would configure Callboard."""
        ours = set(variables().values()) | {"PYTHONPATH", "CALLBOARD_UP_FOLDER", "VIRTUAL_ENV"}
        return {**{k: v for k, v in os.environ.items() if k not in ours}, "HOME": str(self.folder), **more}

    def start(self, *arguments: str, output: Path | None = None, **variables: str) -> subprocess.Popen[bytes]:
        """Start ``./callboard`` with these arguments, from another folder than its own."""
        with (output or Path(os.devnull)).open("ab") as file:
            return subprocess.Popen(
                [self.folder / "callboard", *arguments],
                cwd="/",
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **as_user(self.account),
            )

    def call(
        self, *arguments: str, said: str = "", timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``./callboard`` with these arguments to its end; ``said`` is its standard input."""
        return subprocess.run(
            [self.folder / "callboard", *arguments],
            cwd="/",
            env=self.environment(**variables),
            input=said,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **as_user(self.account),
        )

    @contextmanager
    def up(self, **variables: str) -> Iterator[Running]:
        """``up`` on a free port, ready; ended afterwards if the test has not done so."""
        output = self.folder.with_name(f"{self.folder.name}.out")
        output.unlink(missing_ok=True)
        output.touch(0o666)
        process = self.start("up", "--port", "0", output=output, **variables)
        running = Running(self, process, output)
        try:
            wait_for(running.is_ready, READY_S, interval=0.1, what="up is ready")
            yield running
        except AssertionError:
            sys.stderr.write(running.said())
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Running:
    """A running ``up``."""

    def __init__(self, clone: Clone, process: subprocess.Popen[bytes], output: Path) -> None:
        self.clone = clone
        self.process = process
        self.output = output

    def is_ready(self) -> bool:
        """Whether it has written up.json; its early end is an error at once."""
        if (code := self.process.poll()) is not None:
            raise RuntimeError(f"up ended with {code}:\n{self.said()}")
        try:
            # Its own: what was killed has left its file, for a moment.
            return self.process.pid in self.clone.up_json["pids"]["up"]
        except (FileNotFoundError, KeyError):
            return False

    def said(self) -> str:
        """All that it printed."""
        return self.output.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """It and all processes below it."""
        up = psutil.Process(self.process.pid)
        return [up, *up.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def modes(folder: Path) -> dict[Path, int]:
    """The mode of this folder and of all above it."""
    return {place: stat.S_IMODE(place.stat().st_mode) for place in (folder, *folder.parents)}
