"""Quarantine: a suspect's next attempt runs alone in a child process, so that nobody else waits and a death names
its culprit (DESIGN section 3, "Lost is not crashed")."""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import ARRAY, Float, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import INTERVAL

from actors.runtime.logs import get_logger
from models.tables import is_pending, jobs

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("quarantine")

#: Seconds that a stopping worker waits for its child to end its job.
FAREWELL_S = 10.0

_mine = jobs.c.actor == func.any(cast(bindparam("actors", type_=ARRAY(Text)), ARRAY(Text)))
_waited = func.now() - cast(bindparam("waited_s"), Float) * cast("1 second", INTERVAL)
#: A suspect that is due and whose actor is known here. Parameters: ``actors``, ``waited_s``.
DUE_SUSPECT = (
    select(jobs.c.id)
    .where(is_pending, jobs.c.suspect, jobs.c.run_at <= _waited, _mine)
    .order_by(jobs.c.run_at)
    .limit(1)
)


class Quarantine:
    """Keeps one child alive while there are suspects."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = Lock()
        self._stopped = False

    def run_once(self, waited_s: float = 0, *, keep: bool = False) -> bool:
        """Start the child if a suspect waits and none runs; returns whether one runs now.

        Args:
          waited_s: look only at suspects that have waited this long.
          keep: start it also without a suspect, and keep it: an interpreter that has still to import everything
            would make the second attempt late.
        """
        with self._lock:
            if self._child is not None:
                code = self._child.poll()
                if code is None:
                    return True
                if code:
                    log.warning("quarantine.died", pid=self._child.pid, code=code)
                self._forget()
            if self._stopped or not (keep or self._suspect_waits(waited_s)):
                return False
            self._child = self._spawn(keep)
            log.info("quarantine.started", pid=self._child.pid)
            return True

    def stop(self) -> None:
        """End the child after its current job, or without it when that takes too long."""
        with self._lock:
            self._stopped = True
            if self._child is None:
                return
            self._child.terminate()
            try:
                self._child.wait(FAREWELL_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._forget()

    def _forget(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        self._child = None

    def _suspect_waits(self, waited_s: float) -> bool:
        with self._broker.resources.engine.connect() as connection:
            known = {"actors": sorted(self._broker.get_declared_actors()), "waited_s": waited_s}
            return connection.execute(DUE_SUSPECT, known).one_or_none() is not None

    def _spawn(self, keep: bool) -> subprocess.Popen[bytes]:
        modules = {actor.fn.__module__ for actor in self._broker.actors.values()} - {"__main__"}
        # Its standard input tells the child when this process is gone.
        return subprocess.Popen(
            [sys.executable, "-m", "actors.runtime.quarantine_child", *(["--keep"] if keep else []), *sorted(modules)],
            stdin=subprocess.PIPE,
            # In a group of its own: who ends what is left of a dead worker's group must not end the child that is
            # just making good for it.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
