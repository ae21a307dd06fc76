"""The fence of an attempt: what it keeps out, what it lets pass, and on whose connection it stands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, exc, text

from actors.runtime.current import Attempt, CurrentJob
from dev.migrations import upgrade
from models import ledger
from models.arrays import parameters
from models.engine import make_engine, transaction
from models.settings import get_settings, load_settings
from tests.conftest import clean_environment
from tests.integration import ledger_support
from tests.integration.ledger_support import Book

module_database, database_url = ledger_support.module_database, ledger_support.database_url


@pytest.mark.parametrize("verb", ["rescue", "complete"])
def test_it_waits_for_whoever_takes_the_attempt(book: Book, verb: str) -> None:
    job, token = book.running()
    own = transaction(book.engine)
    with own.connect() as taker, own.connect() as fenced:
        if verb == "rescue":
            taker.execute(text("UPDATE callboard.workers SET dead_at = now()"))
            taken = taker.execute(ledger.rescue(), {"crashed": [], "unstarted": []})
        else:
            done = parameters("done", id=[job], token=[token], result=["1"], result_error=[None], progress=[None])
            taken = taker.execute(ledger.complete(), done)
        assert taken.all()
        fenced.execute(text("SET LOCAL lock_timeout = '300ms'"))
        with pytest.raises(exc.OperationalError, match="lock timeout"):
            fenced.execute(ledger.hold(), {"job_id": job, "token": token})


def test_nobody_takes_the_attempt_and_news_of_it_pass(book: Book) -> None:
    job, token = book.running()
    own = transaction(book.engine)
    with own.connect() as fenced, own.connect() as other:
        assert fenced.execute(ledger.hold(), {"job_id": job, "token": token}).all()
        other.execute(text("SET LOCAL lock_timeout = '300ms'"))
        other.execute(text("UPDATE callboard.workers SET dead_at = now()"))
        assert other.execute(ledger.rescue(), {"crashed": [], "unstarted": []}).all() == []
        progress = {"job_id": job, "token": token, "new_progress": "{}", "new_lines": None}
        assert other.execute(ledger.report_progress(), progress).all()
        assert other.execute(ledger.cancel(), {"job_id": job, "tenant": "default"}).all()


@pytest.fixture
def second_schema(empty_database_url: str) -> Iterator[str]:
    """A database whose tables of ours lie in another schema."""
    variables = {"DATABASE_URL": empty_database_url, "REDIS_URL": "redis://127.0.0.1", "CALLBOARD_DB_SCHEMA": "second"}
    with clean_environment(**variables):
        get_settings.cache_clear()
        upgrade()
        yield empty_database_url
    get_settings.cache_clear()


def test_it_stands_on_the_adopters_own_engine_too(second_schema: str) -> None:
    ours = make_engine(load_settings(_env_file=None))
    job, token = Book(ours).running()
    ours.dispose()
    theirs = create_engine(second_schema.replace("postgresql:", "postgresql+psycopg:"))
    with theirs.begin() as connection:
        CurrentJob(attempt(job, token), lambda _: None).fence(connection)
    theirs.dispose()


def attempt(job: UUID, token: UUID) -> Attempt:
    known = {"tenant_id": "default", "actor": "act", "options": {}, "worker_id": uuid4()}
    return Attempt(id=job, token=token, number=1, started_at=datetime.now(UTC), **known)  # type: ignore[arg-type]
