"""Every table there is, those of domains too: a domain is files that can be deleted, so nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil

from sqlalchemy import MetaData

import models
from models.tables import metadata


def all_tables() -> MetaData:
    """The metadata, with the tables of every module of :mod:`models` in it."""
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"models.{module.name}")
    return metadata
