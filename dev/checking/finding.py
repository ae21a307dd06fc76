"""What a check finds, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from redis import Redis
from sqlalchemy import Connection

from models.settings import Settings


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"  # something does not work, or will not
    WARNING = "warning"  # it works, and you may regret it


class Finding(NamedTuple):
    """One thing that is wrong or unwise."""

    level: Level
    code: str  # a stable name, for programs
    what: str
    why: str
    remedy: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        parts = (" ".join(part.split()).rstrip(".") for part in (self.what, self.why, self.remedy))
        return f"{self.level:<7} {self.code}: {'. '.join(parts)}."


def error(code: str, what: str, why: str, remedy: str) -> Finding:
    """Something that does not work; sentences without their full stops."""
    return Finding(Level.ERROR, code, what, why, remedy)


def warning(code: str, what: str, why: str, remedy: str) -> Finding:
    """Something that works and is unwise."""
    return Finding(Level.WARNING, code, what, why, remedy)


class Need(StrEnum):
    """What a check cannot do without."""

    POSTGRES = "Postgres"
    TABLES = "our tables"
    REDIS = "Redis"


@dataclass
class Context:
    """What checks look at.

    Attributes:
      variables: the environment that workers would have.
      embedded: those of DATABASE_URL and REDIS_URL that this folder's own servers provide.
      missing: what turned out not to be there; checks that need it are left out.
    """

    variables: Mapping[str, str]
    settings: Settings
    embedded: frozenset[str] = frozenset()
    _connection: Connection | None = None
    _redis: Redis | None = None
    missing: set[Need] = field(default_factory=set)

    @property
    def connection(self) -> Connection:
        """Postgres, in autocommit; only for checks that need it."""
        assert self._connection is not None
        return self._connection

    @property
    def redis(self) -> Redis:
        """Redis; only for checks that need it."""
        assert self._redis is not None
        return self._redis

    @property
    def production(self) -> bool:
        """Whether CALLBOARD_ENV says so."""
        return self.settings.env == "production"


class Check(NamedTuple):
    """One question and what it takes to ask it."""

    ask: Callable[[Context], Iterable[Finding]]
    needs: frozenset[Need] = frozenset()

    @property
    def name(self) -> str:
        """For people and for ``--json``."""
        return self.ask.__name__.replace("_", " ")
