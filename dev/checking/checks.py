"""The list of checks, and how they are asked. A new one is a function in its module and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError

from actors.runtime.resources import redis_client
from dev.checking import actors, postgres, redis, settings, work
from dev.checking.finding import Check, Context, Finding, Need, error
from models.engine import make_engine
from models.settings import Settings

_POSTGRES = frozenset({Need.POSTGRES})
_TABLES = frozenset({Need.POSTGRES, Need.TABLES})
_REDIS = frozenset({Need.REDIS})

#: In the order in which a person would put things right.
CHECKS: tuple[Check, ...] = (
    Check(settings.secret_key),
    Check(settings.webhook_loopback),
    Check(settings.mail),
    Check(settings.redis_database),
    Check(settings.retention),
    Check(actors.actor_modules),
    Check(postgres.postgres_version, _POSTGRES),
    Check(postgres.role, _POSTGRES),
    Check(postgres.pooler, _POSTGRES),
    Check(postgres.clock, _POSTGRES),
    Check(postgres.schema, _POSTGRES),  # before those that need tables
    Check(postgres.second_wall, _TABLES),
    Check(redis.redis_version, _REDIS),
    Check(redis.eviction_policy, _REDIS),
    Check(redis.persistence, _REDIS),
    Check(work.workers, _TABLES),
    Check(work.locks, _TABLES),
    Check(work.running_of_the_dead, _TABLES),
    Check(work.crashes, _TABLES),
    Check(work.relay, _TABLES | _REDIS),
    Check(work.schedules, _TABLES),
)

#: Seconds that Redis has to answer.
PATIENCE_S = 5.0


class Report(NamedTuple):
    """What came out of it."""

    findings: list[Finding]
    asked: list[str]
    left_out: dict[str, str]  # check → what it lacked


def examine(
    variables: Mapping[str, str],
    configured: Settings,
    *,
    embedded: Iterable[str] = (),
    checks: Iterable[Check] = CHECKS,
) -> Report:
    """Ask every question that can be asked.

    Args:
      variables: the environment that workers would have; ``configured``: the settings in it.
      embedded: those of DATABASE_URL and REDIS_URL that this folder's own servers provide.
    """
    context = Context(variables, configured, frozenset(embedded))
    report = Report([], [], {})
    with ExitStack() as stack:
        report.findings.extend(_connect(context, stack))
        for check in checks:
            if lacking := check.needs & context.missing:
                report.left_out[check.name] = ", ".join(sorted(lacking))
                continue
            report.asked.append(check.name)
            try:
                report.findings.extend(check.ask(context))
            except Exception as fault:  # noqa: BLE001 - one broken question must not hide the other answers
                first = str(fault).partition("\n")[0]
                report.findings.append(
                    error(
                        "check-failed",
                        f"The check '{check.name}' could not be made: {type(fault).__name__}: {first}",
                        "What it looks for may be wrong, too",
                        "Put that right and check again",
                    )
                )
    return report


def _connect(context: Context, stack: ExitStack) -> Iterator[Finding]:
    engine = make_engine(context.settings, pool_size=0)
    try:
        context._connection = stack.enter_context(engine.connect())
    except OperationalError as fault:
        context.missing |= {Need.POSTGRES, Need.TABLES}
        yield error(
            "postgres-unreachable",
            f"Postgres does not let us in: {str(fault.orig).strip().partition(chr(10))[0]}",
            "It holds the truth: nothing can be sent, run or shown without it",
            "See DATABASE_URL, the server and the network between",
        )
    client: Redis = stack.enter_context(redis_client(context.settings, timeout_s=PATIENCE_S))
    try:
        client.ping()
        context._redis = client
    except (RedisError, OSError) as fault:
        context.missing.add(Need.REDIS)
        yield error(
            "redis-unreachable",
            f"Redis does not let us in: {fault}",
            "Jobs are kept, but no worker hears of them and no browser sees them move",
            "See REDIS_URL, the server and the network between",
        )
