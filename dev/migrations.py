"""``alembic upgrade head`` of whatever database DATABASE_URL names, inside this process."""

from __future__ import annotations

import io
import logging

from alembic import command
from alembic.config import Config

from dev.home import ROOT


def alembic_config() -> Config:
    """Alembic's configuration of this clone, silent on standard output."""
    return Config(str(ROOT / "alembic.ini"), stdout=io.StringIO())


def upgrade(revision: str = "heads") -> None:
    """Bring the database up to date; its address is read from the settings.

    Args:
      revision: where to stop; every branch's newest by default.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(alembic_config(), revision)
