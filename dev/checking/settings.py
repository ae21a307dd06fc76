"""Settings that are valid one by one and unwise together."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from dev.checking.finding import Context, Finding, error, warning


def secret_key(context: Context) -> Iterable[Finding]:
    """Production must not make one up."""
    if context.production and context.settings.secret_key is None:
        yield error(
            "secret-key",
            "CALLBOARD_SECRET_KEY is not set in production",
            "The web app signs event tickets with it and does not start without",
            "Set it to 32 or more random characters, the same for every web process",
        )


def webhook_loopback(context: Context) -> Iterable[Finding]:
    """A tenant's URL must not reach our own machine."""
    if context.production and context.settings.webhook_allow_loopback:
        yield warning(
            "webhook-loopback",
            "CALLBOARD_WEBHOOK_ALLOW_LOOPBACK is on in production",
            "Any tenant can make a worker call services that listen on its own machine only",
            "Remove it",
        )


def mail(context: Context) -> Iterable[Finding]:
    """Either both or none."""
    values = {"CALLBOARD_SMTP_URL": context.settings.smtp_url, "CALLBOARD_MAIL_FROM": context.settings.mail_from}
    unset = [name for name, value in values.items() if value is None]
    if len(unset) == 1:
        yield warning(
            "mail-half-set",
            f"{unset[0]} is not set, {(set(values) - set(unset)).pop()} is",
            "Mail needs a server and a sender",
            "Set both or none",
        )


def redis_database(context: Context) -> Iterable[Finding]:
    """redis-py's own default is database 0, ours is REDIS_DB."""
    settings = context.settings
    if "REDIS_URL" in context.embedded or settings.redis_url_with_db == settings.redis_url or settings.redis_db == 0:
        return
    yield warning(
        "redis-database",
        f"REDIS_URL names no database, so Callboard uses {settings.redis_db}",
        "A producer with Dramatiq's own broker and the same URL would use database 0, and nobody would fetch there",
        f"Write the number into the URL, for everybody: redis://…/{settings.redis_db}",
    )


def retention(context: Context) -> Iterable[Finding]:
    """Rows that go before anybody could have read them, or failures before successes."""
    kept = {
        "CALLBOARD_RETENTION_COMPLETED": context.settings.retention_completed,
        "CALLBOARD_RETENTION_FAILED": context.settings.retention_failed,
    }
    for name, span in kept.items():
        if span < timedelta(minutes=10):
            yield warning(
                "retention",
                f"{name} is {span}",
                "Rows go before their senders can have read the result, and get_result finds nothing",
                "Keep them for an hour or more",
            )
    if context.settings.retention_failed < context.settings.retention_completed:
        yield warning(
            "retention",
            "Failed jobs are kept for less time than completed ones",
            "Failures are what somebody comes to look for, days later",
            "Raise CALLBOARD_RETENTION_FAILED",
        )
