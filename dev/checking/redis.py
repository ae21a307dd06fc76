"""Redis: new enough, throws nothing away, and keeps what it has over a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from redis.exceptions import ResponseError

from dev.checking.finding import Context, Finding, error, warning

#: The oldest version of Redis that we run on; every Valkey is newer.
OLDEST: Final = (6, 2)


def redis_version(context: Context) -> Iterable[Finding]:
    """Redis 6.2 or newer, or Valkey, which reports the version of Redis that it is compatible with."""
    version = str(_told(context, "server").get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        yield error(
            "redis-version",
            f"Redis is version {version}",
            f"Callboard's commands need {'.'.join(map(str, OLDEST))} or newer, or Valkey",
            "Upgrade the server",
        )


def eviction_policy(context: Context) -> Iterable[Finding]:
    """Anything but noeviction lets Redis drop offers, acknowledgements and the feed."""
    policy = _told(context, "memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield error(
            "eviction-policy",
            f"Redis' maxmemory-policy is {policy}",
            "When memory is short it deletes waiting messages: their jobs come late, and results in the feed are lost",
            "Set maxmemory-policy noeviction, in redis.conf and by CONFIG SET",
        )


def persistence(context: Context) -> Iterable[Finding]:
    """Nothing is lost without it, but everything is offered anew."""
    if int(_told(context, "persistence").get("aof_enabled", 0)):
        return
    try:
        snapshots: Any = context.redis.config_get("save")
    except ResponseError:  # some hosted servers forbid it, and they persist
        return
    if not snapshots.get("save"):
        yield warning(
            "redis-persistence",
            "Redis keeps nothing on disk",
            "After its restart messages of producers without Callboard's broker are gone; our own are offered again",
            "Set appendonly yes",
        )


def _told(context: Context, section: str) -> dict[str, Any]:
    """A section of INFO; empty where it is forbidden."""
    try:
        told: Any = context.redis.info(section)
    except ResponseError:
        return {"redis_version": "99.0"} if section == "server" else {}
    return dict(told)
