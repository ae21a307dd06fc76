"""A domain: routes, documents and pages of its own that the rest of the web process does not know.

Every module of :mod:`web.domains` that has a ``DOMAIN`` is served; deleting the module removes all of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from starlette.routing import BaseRoute


@dataclass(frozen=True)
class Domain:
    """What one domain adds.

    Attributes:
      routes: its addresses, API and pages.
      paths: the OpenAPI path items of those that belong to the API; must name every method (HEAD is added to GET).
      schemas: the OpenAPI components that these refer to.
      body_limits: bytes of a body by path prefix, where they differ from the usual.
      pages: (path, name) of pages for the board's navigation.
    """

    routes: Sequence[BaseRoute]
    paths: Mapping[str, Any] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)
    body_limits: Mapping[str, int] = field(default_factory=dict)
    pages: Sequence[tuple[str, str]] = ()


@cache
def domains() -> tuple[Domain, ...]:
    """All of them, in order of their modules' names."""
    return tuple(_find())


def _find() -> Iterator[Domain]:
    from web import domains as package

    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        found = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "DOMAIN", None)
        if isinstance(found, Domain):
            yield found
