"""Every table there is and what expires in them: a domain is files that can be deleted, so nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil

from sqlalchemy import MetaData

import models
from models.retention import EXPIRIES, Expiry
from models.tables import metadata


def all_tables() -> MetaData:
    """The metadata, with the tables of every module of :mod:`models` in it."""
    _import_all()
    return metadata


def all_expiries() -> list[Expiry]:
    """What the pruner deletes for the modules of :mod:`models` that asked for it."""
    _import_all()
    return list(EXPIRIES)


def _import_all() -> None:
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"models.{module.name}")
