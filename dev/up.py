"""``./callboard up``: everything, in one terminal, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import psutil

from dev.access import OPERATOR, Access, provide_access
from dev.children import Children
from dev.console import Fault, say
from dev.embedded import Embedded
from dev.environment import Environment, check_settings, read_environment
from dev.home import FileLock, Home, read_json, write_private
from dev.logs import Follower, Tail
from dev.migrations import upgrade
from dev.ports import claim_port
from dev.processes import end_all, marked
from dev.servers import Server
from dev.service import Engaged, engage
from dev.supervisor import Child, State, Supervisor
from dev.watch import affected, read_changes
from models.engine import make_engine
from models.settings import get_settings

#: Seconds that workers, cron and web together may take until they are ready.
READY_DEADLINE_S = 90.0
#: Seconds that the watch of the sources may take; without it a change is only not seen.
WATCH_DEADLINE_S = 20.0
#: A child that dies more often than this while booting makes ``up`` give up (about 8 s).
_BOOT_FAILURES = 5
#: Seconds between two looks at the children.
_TICK_S = 0.1


class _Asked(Exception):
    """The user wants it to end."""


class Up:
    """One run of ``up``.

    Args:
      port: of the web app; 0 takes any free one.
    """

    def __init__(self, port: int) -> None:
        self.environment: Environment = read_environment()
        self.home = Home()
        self.lock = FileLock(self.home.folder / "lock")
        self._take_folder()
        self.port = claim_port(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.embedded = Embedded(self.home, self.environment)
        self.services: list[Engaged] = []
        self.supervisor = Supervisor(say, self._publish)
        self.variables: dict[str, str] = {}
        self.access: Access | None = None
        self._followers: list[Follower] = []
        self._watched: Tail | None = None
        self._published = False
        self._asked = 0

    def _take_folder(self) -> None:
        told = False
        while not self.lock.acquire():
            holder = self.lock.holder()
            if holder.get("command") == "up":
                where = read_json(self.home.up_json).get("url", "not ready yet")
                raise Fault(f"already up in this folder: {where} (pid {holder.get('pid')})")
            if not told:
                told = True
                say(f"waiting for './callboard {holder.get('command')}' (pid {holder.get('pid')}) to end")
            time.sleep(0.1)
        self.lock.sign(pid=os.getpid(), command="up")

    def run(self) -> None:
        """Boot, look after everything, and end it in order on SIGINT, SIGTERM or SIGHUP."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._clean_up_after_a_killed_run()
            self._boot()
            self._look_after()
        except _Asked:
            pass
        finally:
            self._shut_down()
            self.lock.close()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1

    def _pause(self, seconds: float) -> None:
        if self._asked:
            raise _Asked
        time.sleep(seconds)

    def _clean_up_after_a_killed_run(self) -> None:
        self.home.up_json.unlink(missing_ok=True)
        if left := marked(self.home.folder):
            say("ending what a killed run left: " + ", ".join(f"{p.name()} (pid {p.pid})" for p in left))
            # Linux has told them to end already, and telling dramatiq twice makes it drop what it does.
            _, left = psutil.wait_procs(left, timeout=30 if sys.platform == "linux" else 0)
            end_all(left, grace_s=30)

    def _boot(self) -> None:
        self.services = engage(self.home, self.environment)
        self.embedded.boot(self._pause, self.services)
        provided = {name: value for engaged in self.services for name, value in engaged.variables.items()}
        self.variables = self.environment.with_servers(self.home, {**self.embedded.urls, **provided})
        settings = check_settings(self.variables)
        os.chdir(self.home.root)
        os.environ.update(self.variables)
        get_settings.cache_clear()
        say("migrating")
        upgrade(views="DATABASE_URL" in self.environment.embedded)
        self._pause(0)
        self.access = provide_access(self.home, settings)
        children = Children(self.home, settings, self.variables, make_engine(settings, pool_size=1))
        started = [
            *(children.service(engaged) for engaged in self.services),
            *(children.worker(number) for number in range(1, settings.processes + 1)),
            children.cron(),
            children.web(self.port),
        ]
        names = [f"{settings.processes} workers", "cron", *(engaged.service.name for engaged in self.services)]
        say(f"starting {', '.join(names)} and web")
        width = max(len(child.name) for child in started)
        self._followers = [Follower(child.name, children.log(child.name), width) for child in started]
        for server in self.embedded.servers:
            self._adopt(server)
        for child in started:
            self.supervisor.start(child)
        deadline = time.monotonic() + READY_DEADLINE_S
        while late := [child.name for child in started if not child.settled]:
            if hopeless := [child.name for child in started if child.failures > _BOOT_FAILURES]:
                raise Fault(f"{' and '.join(hopeless)} cannot start, see above; logs: {self.home.logs}")
            if time.monotonic() > deadline:
                raise Fault(f"not ready within {READY_DEADLINE_S:.0f} s: {', '.join(late)}; logs: {self.home.logs}")
            self._tick()
            self._pause(_TICK_S)
        if not self.environment.production:
            self._watched = Tail(children.log("watch"))
            self.supervisor.start(children.watch())
            self._wait_for_the_watch(self._watched)
        self._published = True
        self._publish()
        print(self._banner(idle_cron=any(c.kind == "cron" and c.state is State.DONE for c in started)), flush=True)

    def _wait_for_the_watch(self, lines: Tail) -> None:
        """Who reads "up" may change a file at once, and that must not be missed."""
        deadline = time.monotonic() + WATCH_DEADLINE_S
        while time.monotonic() < deadline and not any(line.startswith(b"[") for line in lines.new_lines()):
            self._tick()
            self._pause(_TICK_S)

    def _adopt(self, server: Server) -> None:
        assert server.process is not None
        child = Child(
            name=server.name,
            kind=server.name,
            spawn=server.spawn,
            is_ready=lambda _child: server.obstacle() is None,
            stop_signal=server.stop_signal,
        )
        self.supervisor.adopt(child, server.process)

    def _look_after(self) -> None:
        while True:
            self._tick()
            if self._watched is not None and (changes := read_changes(self._watched.new_lines())):
                names = sorted(os.path.relpath(path, self.home.root) for path in changes)
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                say(f"{names[0]}{more} changed: reloading")
                self.supervisor.reload(affected(changes))
            self._pause(_TICK_S)

    def _tick(self) -> None:
        self.supervisor.tick()
        for follower in self._followers:
            follower.print_new()

    def _shut_down(self) -> None:
        def pause() -> None:
            for follower in self._followers:
                follower.print_new()
            time.sleep(0.02)

        self.supervisor.stop(["watch"], pause, at_once=lambda: True)
        for kind, grace in (("cron", ""), ("web", ""), ("worker", "; running jobs get up to 25 s, Ctrl-C again kills")):
            if any(child.kind == kind and child.process is not None for child in self.supervisor.children):
                say(f"stopping {kind}{grace}")
                self.supervisor.stop([kind], pause, at_once=lambda: self._asked > 1)
        # Last, because running jobs may still need them.
        self.supervisor.stop([e.service.name for e in self.services], pause, at_once=lambda: self._asked > 1)
        end_all(marked(self.home.folder), grace_s=2)
        pause()
        self.home.up_json.unlink(missing_ok=True)
        self.supervisor.children.clear()
        if self.embedded.servers:
            say("stopping the servers")
            self.embedded.stop()
        say("stopped; the data stays in .callboard/")

    def _pids(self) -> Iterator[tuple[str, int]]:
        yield "up", os.getpid()
        for child in self.supervisor.children:
            if child.process is None or child.state is State.WAITING:
                continue
            yield {"worker": "worker-master"}.get(child.kind, child.kind), child.process.pid
            for name, pids in child.notes.items():
                yield from ((name, pid) for pid in pids)

    def _publish(self) -> None:
        """Write ``up.json`` anew; nothing before the first time that everything is ready."""
        if not self._published or self.access is None:
            return
        if self.embedded.servers:
            self.embedded.publish()
        pids: dict[str, list[int]] = {}
        for name, pid in self._pids():
            pids.setdefault(name, []).append(pid)
        content = {
            "url": self.url,
            "api_key": self.access.api_key,
            "operator_user": OPERATOR,
            "operator_password": self.access.operator_password,
            "database_url": self.variables["DATABASE_URL"],
            "redis_url": self.variables["REDIS_URL"],
            "mailbox_url": None,
            "pids": pids,
        }
        for engaged in self.services:
            content |= engaged.service.up_json(engaged.ports)
        write_private(self.home.up_json, json.dumps(content, indent=2) + "\n")

    def _banner(self, *, idle_cron: bool) -> str:
        assert self.access is not None
        key = self.access.api_key
        lines = [
            "",
            f"  Callboard is up: {self.url}" + ("  (no schedules declared: cron rests)" if idle_cron else ""),
            "",
            f"  Sign in    {self.url}/sign-in?token={self.access.sign_in_token}   (works once)",
            f"  API key    {key}",
            f"  Send a job curl {self.url}/jobs -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
            """ -d '{"type":"sleep","payload":{"delayMs":2000}}'""",
            '  In Python  ./callboard run -- python -c "from actors import sleep; print(sleep.send(delay_ms=2000))"',
            *(engaged.banner for engaged in self.services),
            "  Stop       Ctrl-C",
            "",
        ]
        return "\n".join(lines)
