"""Commands that need the servers for their own duration: ``run``, ``migrate``, ``keys``.

The servers belong to whoever holds ``.callboard/lock``. Others use them under a shared lock on ``.callboard/users``,
which an owner that is not ``up`` waits for before it stops them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from dev.console import Fault, say
from dev.embedded import Embedded
from dev.environment import Environment, read_environment
from dev.home import FileLock, Home, read_json
from dev.servers import BOOT_DEADLINE_S
from dev.service import provided


@dataclass(frozen=True)
class Borrowed:
    """Running servers.

    Attributes:
      variables: the environment of a command that uses them.
      owned: whether they stop when we do.
      users: the shared lock that keeps them, when another command owns them.
    """

    variables: dict[str, str]
    owned: bool
    users: FileLock | None = None


@contextmanager
def servers(command: str) -> Iterator[Borrowed]:
    """This folder's servers: those that run already, or else our own for as long as this takes.

    Args:
      command: what the user called, for those who have to wait for us.

    Raises:
      Fault: they cannot be started.
    """
    home = Home()
    environment = read_environment()
    if not environment.embedded:
        yield Borrowed(environment.with_servers(home, _services_of_up(home, environment)), owned=False)
        return
    with closing(FileLock(home.folder / "lock")) as lock, closing(FileLock(home.folder / "users")) as users:
        yield from _share(command, home, environment, lock, users)


def _services_of_up(home: Home, environment: Environment) -> dict[str, str]:
    with closing(FileLock(home.folder / "lock")) as lock:
        if lock.acquire(shared=True):
            return {}  # nobody holds the folder: what its file says is what a killed run left
    return provided(environment, read_json(home.servers_json).get("services", {}))


def _share(command: str, home: Home, environment: Environment, lock: FileLock, users: FileLock) -> Iterator[Borrowed]:
    deadline = time.monotonic() + 2 * BOOT_DEADLINE_S
    while not lock.acquire():
        # Shared first, then look: an owner that saw no user has removed the addresses before.
        if users.acquire(shared=True):
            told = read_json(home.servers_json)
            if urls := told.get("urls"):
                wanted = {name: urls[name] for name in environment.embedded}
                wanted |= provided(environment, told.get("services", {}))
                yield Borrowed(environment.with_servers(home, wanted), owned=False, users=users)
                return
            users.unlock()
        if time.monotonic() > deadline:
            raise Fault(f"another callboard (pid {lock.holder().get('pid')}) holds {home.folder} and starts no servers")
        time.sleep(0.05)
    lock.sign(pid=os.getpid(), command=command)
    embedded = Embedded(home, environment)
    embedded.boot()
    try:
        yield Borrowed(environment.with_servers(home, embedded.urls), owned=True)
    finally:
        if not users.acquire():
            say("waiting for another ./callboard command that uses these servers")
            users.acquire(wait=True)
        embedded.stop()
