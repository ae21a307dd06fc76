"""An actor that is due every minute."""

from __future__ import annotations

import dramatiq

import actors  # noqa: F401 - installs the broker
from actors.runtime.cron import cron


@dramatiq.actor(periodic=cron("* * * * *", missed="all"))
def minutely() -> str:
    """Done at once."""
    return "done"
