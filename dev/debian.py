"""Debian packages that tests need, installed where that is ours to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable

from dev.console import say


def installed(package: str) -> bool:
    """Whether dpkg knows the package as installed."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${db:Status-Status}", package], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "installed"


def can_install() -> bool:
    """Whether this is a Debian (or a child of it) and we are root on it."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Iterable[str]) -> list[str]:
    """Install what is missing, without asking anything.

    Returns:
      What is missing still.
    """
    missing = [name for name in packages if not installed(name)] if shutil.which("dpkg-query") else list(packages)
    if not missing or not can_install():
        return missing
    say(f"installing Debian packages: {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "-qq", "update"],
        ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            say(f"{' '.join(command[:3])} failed: {last}")
            break
    return [name for name in missing if not installed(name)]
