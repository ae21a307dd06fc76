"""``./callboard run -- CMD``: any command with this folder's environment and servers."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from dev.borrowed import servers
from dev.console import say


def run(command: Sequence[str]) -> int:
    """Run ``command`` in the caller's folder and return its exit code as a shell would.

    Signals go to the command, which decides what they mean. When the servers run already we become the command.
    """
    with servers(shlex.join(["run", "--", *command])) as borrowed:
        program = shutil.which(command[0], path=borrowed.variables["PATH"])
        if program is None:
            say(f"{command[0]}: command not found")
            return 127
        if not borrowed.owned:
            if borrowed.users is not None:
                borrowed.users.outlive_exec()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and ignoring is inherited
            os.execve(program, list(command), borrowed.variables)  # noqa: S606 - that is the command
        child = subprocess.Popen(command, executable=program, env=borrowed.variables)

        def pass_on(number: int, _frame: FrameType | None) -> None:
            # The terminal has sent its own signals to the whole foreground group already.
            from_terminal = number != signal.SIGTERM and sys.stdin.isatty()
            if not from_terminal and child.poll() is None:
                child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, pass_on)
        code = child.wait()
        return code if code >= 0 else 128 - code
