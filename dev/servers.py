"""What the two embedded servers have in common: start, wait until it answers, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from dev.accounts import Account
from dev.console import Fault, say
from dev.processes import describe_exit, end, spawn

#: Seconds a server may take until it answers: recovery after a crash is slow.
BOOT_DEADLINE_S = 120.0
#: Seconds between two lines that say what a slow server is doing.
_PROGRESS_S = 5.0


def free_port(preferred: int | None = None) -> int:
    """A free TCP port on the loopback interface, the preferred one if possible."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Fault("no free port on 127.0.0.1")


class Server(ABC):
    """One server process on the loopback interface.

    Args:
      log: file that takes the server's output.
      port: where it listens; another free one is taken when this is busy.
    """

    name: str
    #: Asks for an orderly end.
    stop_signal: signal.Signals
    stop_grace_s: float = 60.0
    account: Account | None = None

    def __init__(self, log: Path, port: int | None) -> None:
        self.log = log
        self.port = free_port(port)
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def prepare(self) -> None:
        """Make the data folder ready; raises a Fault when it is damaged."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def obstacle(self) -> str | None:
        """None when the server answers, else what it is doing."""

    @abstractmethod
    def died(self, output: str) -> Fault | None:
        """What the end of a starting server means; None when another try may help.

        Args:
          output: what it wrote since it was started.
        """

    def environment(self) -> Mapping[str, str]:
        """The server needs nothing of ours; libraries are found beside the binary."""
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting for it."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self.process = spawn(
            self.command(),
            env=self.environment(),
            cwd=Path("/"),
            log=self.log,
            death_signal=self.stop_signal,
            account=self.account,
        )
        return self.process

    def output(self) -> str:
        """What the server wrote since it was last started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def boot(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Start the server and wait until it answers.

        Args:
          pause: sleeps; may raise to give up.

        Raises:
          Fault: it cannot start, or does not answer within 120 s.
        """
        self.prepare()
        deadline = time.monotonic() + BOOT_DEADLINE_S
        told = time.monotonic()
        process = self.spawn()
        while (state := self.obstacle()) is not None:
            if (code := process.poll()) is not None:
                if (fault := self.died(self.output())) is not None:
                    raise fault
                if time.monotonic() > deadline:
                    raise Fault(f"{self.name} does not start ({describe_exit(code)}); its log: {self.log}")
                self.port = free_port(self.port)
                process = self.spawn()
            if time.monotonic() > deadline:
                raise Fault(f"{self.name} did not answer within {BOOT_DEADLINE_S:.0f} s ({state}); log: {self.log}")
            if time.monotonic() - told >= _PROGRESS_S:
                told = time.monotonic()
                say(f"waiting for {self.name}: {state}")
            pause(0.05)

    def stop(self) -> None:
        """End the server in good order, by force after a minute."""
        if self.process is not None:
            end(self.process, self.stop_signal, self.stop_grace_s)
            self.process = None
