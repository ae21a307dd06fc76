"""Children that are kept alive: started, restarted with back-off, reloaded one by one, stopped in order."""

from __future__ import annotations

import enum
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from signal import SIGTERM, Signals

from dev.processes import describe_exit, kill_group, tell

#: Seconds before a child that died is started again: the first, doubled each time up to the last.
BACKOFF_S = (0.25, 10.0)
#: A child that lived this long has its back-off forgotten.
HEALTHY_S = 30.0


class State(enum.Enum):
    """Where a child is in its life."""

    STARTING = "starting"  # runs, not ready yet
    READY = "ready"
    RELOADING = "reloading"  # asked to end, will be started again
    WAITING = "waiting"  # died; will be started at ``next_start``
    DONE = "done"  # ended by itself and has nothing to do


@dataclass(eq=False)
class Child:
    """One supervised process.

    Attributes:
      name: as in the log, ``worker 1``.
      kind: as in up.json, ``worker``.
      spawn: starts it.
      is_ready: whether it has come up; asked only until it says yes.
      grace_s: seconds from being asked to end until it is killed.
      quiet: whether the user need not know when it is ready or killed.
      nothing_to_do: whether an exit code means that there is no work for it.
    """

    name: str
    kind: str
    spawn: Callable[[], subprocess.Popen[bytes]]
    is_ready: Callable[[Child], bool]
    stop_signal: Signals = SIGTERM
    grace_s: float = 10.0
    nothing_to_do: Callable[[int], bool] = lambda code: False
    quiet: bool = False
    process: subprocess.Popen[bytes] | None = None
    state: State = State.WAITING
    started: float = 0.0
    next_start: float = 0.0
    deadline: float = 0.0
    failures: int = 0
    notes: dict[str, list[int]] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether it has come up, or has nothing to do."""
        return self.state in (State.READY, State.DONE)


class Supervisor:
    """Looks after children from one thread: call :meth:`tick` often.

    Args:
      tell_user: takes one line about something that happened.
      changed: called when the set of processes is another than before.
    """

    def __init__(self, tell_user: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.children: list[Child] = []
        self._tell = tell_user
        self._changed = changed
        self._to_reload: deque[Child] = deque()
        self._reloading: Child | None = None

    def start(self, child: Child) -> None:
        """Take a child on and start it."""
        self.children.append(child)
        self._start(child)

    def adopt(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        """Take on a child that runs already and is ready."""
        child.process, child.state, child.started = process, State.READY, time.monotonic()
        self.children.append(child)

    def reload(self, kinds: Iterable[str]) -> None:
        """Restart all children of these kinds, one after the other: the next when the last is ready again.

        Whoever waits after a failure is tried at once. New code that does not start keeps the others on the old.
        """
        wanted = set(kinds)
        self._to_reload.clear()
        self._reloading = None
        for child in self.children:
            if child.kind not in wanted:
                continue
            if child.state in (State.WAITING, State.DONE):
                child.next_start, child.failures, child.state = 0.0, 0, State.WAITING
            else:
                self._to_reload.append(child)

    def tick(self) -> None:
        """Notice what has happened since the last call and do what is due."""
        for child in self.children:
            self._tick(child)
        if self._reloading is None or self._reloading.settled:
            self._reloading = self._to_reload.popleft() if self._to_reload else None
            if self._reloading is not None and self._reloading.state in (State.READY, State.STARTING):
                self._ask_to_end(self._reloading)

    def stop(self, kinds: Iterable[str], pause: Callable[[], None], *, at_once: Callable[[], bool]) -> None:
        """End all children of these kinds together and wait until they have; they are not started again.

        Args:
          pause: called while waiting.
          at_once: whether the user has lost patience.
        """
        wanted = set(kinds)
        ending = [child for child in self.children if child.kind in wanted]
        self.children = [child for child in self.children if child.kind not in wanted]
        for child in ending:
            self._ask_to_end(child)
        while running := [c for c in ending if c.process is not None and c.process.poll() is None]:
            for child in running:
                if at_once() or time.monotonic() > child.deadline:
                    self._kill(child)
            pause()
        for child in ending:
            if child.process is not None:
                kill_group(child.process)

    def _start(self, child: Child) -> None:
        child.process, child.state, child.started = child.spawn(), State.STARTING, time.monotonic()
        child.notes.clear()
        self._changed()

    def _ask_to_end(self, child: Child) -> None:
        child.deadline = time.monotonic() + child.grace_s
        child.state = State.RELOADING
        if child.process is not None:
            tell(child.process, child.stop_signal)

    def _kill(self, child: Child) -> None:
        if child.process is not None and child.process.poll() is None:
            if not child.quiet:
                self._tell(f"{child.name} did not end in time: killed")
            kill_group(child.process)

    def _tick(self, child: Child) -> None:
        now = time.monotonic()
        if child.state is State.WAITING and now >= child.next_start:
            self._start(child)
        if child.process is None or child.state in (State.WAITING, State.DONE):
            return
        code = child.process.poll()
        if code is None:
            if child.state is State.RELOADING and now > child.deadline:
                self._kill(child)
            elif child.state is State.STARTING and child.is_ready(child):
                child.state = State.READY
                self._changed()
                if not child.quiet:
                    self._tell(f"{child.name} ready")
            return
        kill_group(child.process)
        if child.state is State.RELOADING:
            self._start(child)
            return
        if child.nothing_to_do(code):
            child.state, child.process = State.DONE, None
            self._changed()
            return
        child.failures = 0 if now - child.started > HEALTHY_S else child.failures
        delay = min(BACKOFF_S[0] * 2**child.failures, BACKOFF_S[1])
        child.failures += 1
        child.next_start, child.state = now + delay, State.WAITING
        self._tell(f"{child.name} ended ({describe_exit(code)}): starting it again in {delay:g} s")
        self._changed()
