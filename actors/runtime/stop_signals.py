"""Being asked to stop: noted at once, and asked once.

Ctrl-C reaches every process of a terminal's foreground group, closing the terminal too, and systemd tells every
process of a unit; Dramatiq's master passes on what it was told as well. So one wish comes to a worker process as two
signals, and the second one means "now, in the middle of jobs" to Dramatiq.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Seconds in which further signals are taken for the same wish; after that they are impatience.
SAME_WISH_S = 2.0
#: What asks a worker process to stop.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Stands before the handlers that Dramatiq's command line has set.

    Args:
      asked: called in the signal handler, before the first handler in line; must not wait for anything.
    """

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked
        self._asked_at: float | None = None
        self._next: dict[int, Any] = {}

    def install(self) -> None:
        """Take the place of the handlers there are; the main thread's to do."""
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._next[number] = handler
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._asked()
        elif now - self._asked_at < SAME_WISH_S:
            return
        self._next[number](number, frame)
