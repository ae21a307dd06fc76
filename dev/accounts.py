"""Whom Postgres runs as when we are root: it refuses to run as root itself."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.console import Fault, say

#: The system user made for this purpose.
NAME = "callboard"


def as_user(account: Account | None) -> dict[str, Any]:
    """Keyword arguments of :mod:`subprocess` that run a child as this user; none for our own."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


@dataclass(frozen=True)
class Account:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int

    def may(self, *command: str | Path) -> bool:
        """Whether ``command`` succeeds when run as this user; the direct question, whatever rules apply."""
        try:
            done = subprocess.run(
                [str(part) for part in command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                **as_user(self),
            )
        except OSError:
            return False
        return done.returncode == 0

    def may_enter(self, folder: Path) -> bool:
        """Whether this user can pass through ``folder`` and all folders above it."""
        return self.may("/bin/sh", "-c", 'cd "$1"', "sh", folder)


def _look_up(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def postgres_account() -> Account | None:
    """The user that Postgres shall run as, or None when we are not root.

    initdb wants a user with a passwd entry, so as root we make one; ``nobody`` where that is not possible.

    Raises:
      Fault: there is no user to be had.
    """
    if os.geteuid() != 0:
        return None
    account = _look_up(NAME)
    if account is None and (useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")):
        say(f"adding the system user {NAME}: Postgres refuses to run as root")
        subprocess.run(
            [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
             "--shell", "/usr/sbin/nologin", NAME],
            check=False,
            capture_output=True,
        )  # fmt: skip
        account = _look_up(NAME)
    account = account or _look_up("nobody")
    if account is None:
        raise Fault("Postgres refuses to run as root, and this machine lets us add no user: run callboard as another")
    return account
