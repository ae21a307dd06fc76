"""``alembic upgrade head`` of whatever database DATABASE_URL names, inside this process."""

from __future__ import annotations

import io
import logging

from alembic import command
from alembic.config import Config

from dev.home import ROOT
from dev.views import publish, withdraw
from models.settings import get_settings


def alembic_config() -> Config:
    """Alembic's configuration of this clone, silent on standard output."""
    return Config(str(ROOT / "alembic.ini"), stdout=io.StringIO())


def upgrade(revision: str = "heads", *, views: bool = False) -> None:
    """Bring the database up to date; its address is read from the settings.

    Args:
      revision: where to stop; every branch's newest by default.
      views: it is the embedded one, whose search path names views of our tables.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = get_settings()
    if views:
        withdraw(settings.database_url, settings.db_schema)
    command.upgrade(alembic_config(), revision)
    if views:
        publish(settings.database_url, settings.db_schema)
