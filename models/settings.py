"""One frozen settings object, read once; every fault is reported at once.

Precedence: process environment, then ``.env.local``, then ``.env`` (both looked up in the working folder).
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.mail import mail_server, sender

#: A Postgres identifier that needs no quoting; what CALLBOARD_DB_SCHEMA may be.
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class SettingsError(Exception):
    """Callboard cannot start: one or more settings are missing or wrong.

    Attributes:
      faults: one line per setting.
    """

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        self.faults = faults or (message,)
        super().__init__(message)


def _env(name: str) -> AliasChoices:
    return AliasChoices(name)


class Settings(BaseSettings):
    """Everything that Callboard reads from its environment (DESIGN section 9)."""

    model_config = SettingsConfigDict(
        env_file=(".env", ".env.local"),  # the later file wins
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    env: Literal["development", "production"] = Field("development", validation_alias=_env("CALLBOARD_ENV"))
    #: libpq URL; ``postgres://``, ``postgresql://`` and ``postgresql+psycopg://`` are accepted, the second is kept.
    database_url: str = Field(validation_alias=_env("DATABASE_URL"))
    redis_url: str = Field(validation_alias=_env("REDIS_URL"))
    #: Used only when REDIS_URL names no database.
    redis_db: int = Field(1, ge=0, validation_alias=_env("REDIS_DB"))
    db_schema: str = Field("callboard", validation_alias=_env("CALLBOARD_DB_SCHEMA"))
    #: Modules that web, worker and cron import, so that their actors exist.
    actors: Annotated[tuple[str, ...], NoDecode] = Field(("actors",), validation_alias=_env("CALLBOARD_ACTORS"))
    processes: int = Field(2, ge=1, le=64, validation_alias=_env("CALLBOARD_PROCESSES"))
    threads: int = Field(8, ge=1, le=512, validation_alias=_env("CALLBOARD_THREADS"))
    #: Attempts of a ``@job_type`` actor that names none.
    max_attempts: int = Field(3, ge=1, le=1000, validation_alias=_env("CALLBOARD_MAX_ATTEMPTS"))
    #: Seconds that a worker may be silent while it still holds its lock.
    lease_s: float = Field(60.0, ge=2, validation_alias=_env("CALLBOARD_LEASE_S"))
    relay_interval_ms: int = Field(250, ge=10, le=60_000, validation_alias=_env("CALLBOARD_RELAY_INTERVAL_MS"))
    #: ISO 8601 duration or seconds; also ``7d``, ``12h``, ``30m``.
    retention_completed: timedelta = Field(timedelta(days=7), validation_alias=_env("CALLBOARD_RETENTION_COMPLETED"))
    retention_failed: timedelta = Field(timedelta(days=30), validation_alias=_env("CALLBOARD_RETENTION_FAILED"))
    #: ``smtp://``, ``smtp+starttls://``, ``smtps://`` or ``smtp+plain://``; see :func:`models.mail.mail_server`.
    smtp_url: str | None = Field(None, validation_alias=_env("CALLBOARD_SMTP_URL"))
    #: ``address`` or ``Name <address>``.
    mail_from: str | None = Field(None, validation_alias=_env("CALLBOARD_MAIL_FROM"))
    webhook_allow_loopback: bool = Field(False, validation_alias=_env("CALLBOARD_WEBHOOK_ALLOW_LOOPBACK"))
    places_url: str | None = Field(None, validation_alias=_env("CALLBOARD_PLACES_URL"))
    places_key: str | None = Field(None, validation_alias=_env("CALLBOARD_PLACES_KEY"))
    #: Origins (scheme://host[:port]) whose pages may call the API and open event streams.
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field((), validation_alias=_env("CALLBOARD_CORS_ORIGINS"))
    #: Signs event tickets; at least 16 characters. The web app needs it.
    secret_key: str | None = Field(None, min_length=16, validation_alias=_env("CALLBOARD_SECRET_KEY"))

    @field_validator("actors", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("retention_completed", "retention_failed", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*([smhd])", value.strip())):
            return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: str) -> str:
        scheme, sep, rest = value.partition("://")
        if not sep or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise ValueError("must start with postgres://, postgresql:// or postgresql+psycopg://")
        return f"postgresql://{rest}"

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("places_url")
    @classmethod
    def _places(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            is_plain = value.isprintable() and " " not in value and not parts.query and not parts.fragment
            if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
                raise ValueError("must be http://host or https://host, perhaps with a path")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: str | None) -> str | None:
        if value is not None:
            mail_server(value)
        return value

    @field_validator("mail_from")
    @classmethod
    def _from(cls, value: str | None) -> str | None:
        if value is not None:
            sender(value)
        return value

    @field_validator("db_schema")
    @classmethod
    def _schema(cls, value: str) -> str:
        if not _IDENTIFIER.fullmatch(value) or value in ("public", "pg_catalog", "information_schema"):
            raise ValueError("must be a schema of our own: lower-case letters, digits and underscores")
        return value

    @property
    def redis_url_with_db(self) -> str:
        """REDIS_URL with REDIS_DB filled in when the URL itself names no database."""
        parts = urlsplit(self.redis_url)
        if parts.scheme == "unix":
            if "db=" in parts.query:
                return self.redis_url
            return f"{self.redis_url}{'&' if parts.query else '?'}db={self.redis_db}"
        if parts.path.strip("/") or "db=" in parts.query:
            return self.redis_url
        return urlunsplit(parts._replace(path=f"/{self.redis_db}"))


def load_settings(**overrides: Any) -> Settings:
    """Read the settings afresh.

    Raises:
      SettingsError: naming every missing or wrong variable in one message.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            name = str(fault["loc"][0]) if fault["loc"] else "?"
            name = _VARIABLES.get(name, name)
            if fault["type"] == "missing":
                lines.append(f"{name} is not set")
            else:
                lines.append(f"{name}: {fault['msg'].removeprefix('Value error, ')}")
        where = [str(f) for f in (".env.local", ".env") if Path(f).exists()]
        source = f" (read: environment{''.join(', ' + f for f in where)})"
        raise SettingsError("; ".join(lines) + source, tuple(lines)) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read at first use.

    Raises:
      SettingsError: see :func:`load_settings`.
    """
    return load_settings()


#: Field name → environment variable, for messages and for the documentation test.
_VARIABLES: dict[str, str] = {
    name: str(field.validation_alias.choices[0])
    for name, field in Settings.model_fields.items()
    if isinstance(field.validation_alias, AliasChoices)
}


def variables() -> dict[str, str]:
    """Field name → environment variable of every setting."""
    return dict(_VARIABLES)
