"""The supervisor: back-off, reload one by one, orderly and forced ends. Real child processes, no servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest

from dev.processes import describe_exit, spawn
from dev.supervisor import BACKOFF_S, Child, State, Supervisor
from tests.support import wait_for

FOREVER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


class Play:
    """A supervisor with what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor = Supervisor(self.said.append, lambda: None)

    def child(self, code: str | Callable[[], str], name: str = "worker 1", **more: object) -> Child:
        source = code if callable(code) else lambda: code

        def start() -> subprocess.Popen[bytes]:
            return spawn([sys.executable, "-c", source()], env={}, cwd=self.folder, log=self.folder / f"{name[-1]}.log")

        child = Child(name=name, kind="worker", spawn=start, is_ready=lambda _child: True, **more)  # type: ignore[arg-type]
        self.supervisor.start(child)
        return child

    def until(self, predicate: Callable[[], object], timeout: float = 15) -> None:
        def step() -> object:
            self.supervisor.tick()
            return predicate()

        wait_for(step, timeout)

    def stop(self, *, at_once: bool = False) -> None:
        self.supervisor.stop(["worker"], lambda: sleep(0.01), at_once=lambda: at_once)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    play = Play(tmp_path)
    yield play
    play.stop(at_once=True)


def pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def test_a_child_that_dies_comes_back_later_and_later(play: Play) -> None:
    child = play.child("raise SystemExit(3)")
    play.until(lambda: child.failures >= 2)
    delays = [line for line in play.said if "ended" in line]
    assert delays[:2] == [
        "worker 1 ended (exit code 3): starting it again in 0.25 s",
        "worker 1 ended (exit code 3): starting it again in 0.5 s",
    ]
    child.failures, child.state, child.next_start = 20, State.WAITING, 0
    play.until(lambda: child.failures == 21)
    assert play.said[-1].endswith(f"again in {BACKOFF_S[1]:g} s")


def test_a_child_with_nothing_to_do_rests_until_code_changes(play: Play) -> None:
    child = play.child("raise SystemExit(1)", nothing_to_do=lambda code: code == 1)
    play.until(lambda: child.state is State.DONE)
    assert child.settled
    play.supervisor.reload(["worker"])
    play.supervisor.tick()
    assert child.state is not State.DONE


def test_reload_replaces_one_after_the_other(play: Play) -> None:
    code = FOREVER
    children = [play.child(lambda: code, f"worker {number}") for number in (1, 2)]
    play.until(lambda: all(child.settled for child in children))
    before = [pid(child) for child in children]
    play.supervisor.reload(["worker"])
    play.supervisor.tick()
    assert [child.state for child in children] == [State.RELOADING, State.READY]
    play.until(lambda: all(c.settled for c in children) and not {pid(c) for c in children} & set(before))
    assert not any("ended" in line for line in play.said)


def test_broken_code_keeps_the_others_on_the_old(play: Play) -> None:
    code = FOREVER
    children = [play.child(lambda: code, f"worker {number}") for number in (1, 2)]
    for child in children:
        child.is_ready = lambda c: c.process is not None and c.process.poll() is None and "def" not in code
    play.until(lambda: all(child.settled for child in children))
    second = pid(children[1])
    code = "def ("
    play.supervisor.reload(["worker"])
    play.until(lambda: children[0].failures >= 2)
    assert pid(children[1]) == second
    assert children[1].state is State.READY
    code = FOREVER
    play.supervisor.reload(["worker"])
    play.until(lambda: all(child.settled for child in children) and pid(children[1]) != second)


def test_a_child_that_does_not_end_is_killed_and_that_is_said(play: Play) -> None:
    play.child(STUBBORN, grace_s=0.2)
    play.until(lambda: "deaf" in (play.folder / "1.log").read_text())
    play.stop()
    assert play.said[-1] == "worker 1 did not end in time: killed"


def test_ends_are_described() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
