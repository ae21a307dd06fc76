"""What tests stand on: one Postgres and one Valkey per session, one fresh database per test.

The servers are the embedded ones, in a temporary folder, unless CALLBOARD_TEST_DATABASE_URL (of a user who may
create roles and databases) and CALLBOARD_TEST_REDIS_URL (whose databases 1 to 15 are flushed) name others, or
CALLBOARD_TEST_POSTGRES_BIN (a folder) and CALLBOARD_TEST_REDIS_BIN name other programs to boot.
The developer's own ``.callboard/`` and DATABASE_URL are never touched.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis as redis_py
from psycopg import sql
from sqlalchemy import Engine

from dev.accounts import postgres_account
from dev.console import Fault
from dev.migrations import upgrade
from dev.postgres import Installation, Postgres, reachable_binaries
from dev.valkey import Valkey
from models.engine import make_engine
from models.rls import web_role
from models.settings import Settings, get_settings, load_settings, variables
from models.tables import SCHEMA
from tests.support import missing, scratch_folder

#: A test's kind is the folder it lies in.
KINDS = ("unit", "integration", "acceptance", "browser")
#: Where Debian's Chromium lies, and what else it may be called.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SECRET_KEY = "only-for-tests-only-for-tests"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its kind, and run the quick kinds first.

    Several processes (pytest-xdist) share the tests file by file, because a file shares servers; what uses the one
    long-lived ``up`` goes to one of them. The browser comes last in each: it leaves an event loop in the main thread.
    """
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here)
        if place.parts[0] in KINDS:
            item.add_marker(place.parts[0])
        group = "spine" if "spine" in getattr(item, "fixturenames", ()) else str(place)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: next((i for i, kind in enumerate(KINDS) if item.get_closest_marker(kind)), 0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half of a surrogate pair in what a test logged, as some do on purpose, cannot travel between processes."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where this session's servers keep their data."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_url(server_folder: Path) -> Iterator[str]:
    """URL of a user who may create roles and databases, on this session's Postgres."""
    if given := os.environ.get("CALLBOARD_TEST_DATABASE_URL"):
        yield given
        return
    try:
        account = postgres_account()
        given_binaries = os.environ.get("CALLBOARD_TEST_POSTGRES_BIN")
        binaries = Path(given_binaries) if given_binaries else reachable_binaries(account)
        place = Installation(binaries, server_folder / "postgres", account)
        password = secrets.token_urlsafe(16)
        server = Postgres(place, log=server_folder / "postgres.log", port=None, password=password, durable=False)
        server.boot()
    except Fault as fault:
        missing(str(fault))
        raise
    yield server.url()
    server.stop()


@pytest.fixture(scope="session")
def redis_url(server_folder: Path) -> Iterator[str]:
    """URL of this session's Redis or Valkey, naming no database."""
    if given := os.environ.get("CALLBOARD_TEST_REDIS_URL"):
        yield given
        return
    password = secrets.token_urlsafe(16)
    try:
        server = Valkey(
            server_folder / "redis",
            log=server_folder / "redis.log",
            port=None,
            password=password,
            binary=Path(binary) if (binary := os.environ.get("CALLBOARD_TEST_REDIS_BIN")) else None,
            durable=False,
        )
        server.boot()
    except Fault as fault:
        missing(str(fault))
        raise
    yield server.url
    server.stop()


def with_database(url: str, name: str, user: str = "", password: str = "") -> str:
    """The same server, another database, and if need be another user."""
    parts = urlsplit(url)
    place = f"{user}:{password}@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
    return urlunsplit(parts._replace(netloc=place, path=f"/{name}"))


@contextmanager
def clean_environment(**values: str) -> Iterator[None]:
    """Only these of Callboard's variables are set, and settings are read anew, now and afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in variables().values():
            patch.delenv(name, raising=False)
        for name, value in values.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def database_owner(postgres_url: str) -> Iterator[tuple[str, str]]:
    """Name and password of the role that owns this session's databases: no superuser, as in ``up``."""
    name, password = f"callboard_test_{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    role = sql.Identifier(name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        # Whoever creates a database for a role must be a member of it, unless superuser.
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        # What an administrator does for an owner who may not create roles (models/rls.py).
        web = sql.Identifier(web_role(SCHEMA, name))
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN NOINHERIT").format(web))
        connection.execute(sql.SQL("GRANT {} TO {}").format(web, role))
        yield name, password
        connection.execute(sql.SQL("DROP ROLE {}, {}").format(web, role))


@contextmanager
def new_database(postgres_url: str, owner: tuple[str, str], template: str | None = None) -> Iterator[str]:
    """A database for one test (or the template of all); gone afterwards. Gives the owner's URL."""
    name = f"{owner[0]}_{secrets.token_hex(4)}"
    create = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner[0]))
    if template is not None:
        create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield with_database(postgres_url, name, *owner)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def template_database(postgres_url: str, database_owner: tuple[str, str]) -> Iterator[str]:
    """Name of a database that was migrated once, to be cloned."""
    with new_database(postgres_url, database_owner) as url:
        with clean_environment(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1"):
            upgrade()
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def database_url(postgres_url: str, database_owner: tuple[str, str], template_database: str) -> Iterator[str]:
    """URL of a fresh, migrated database of this test's own."""
    with new_database(postgres_url, database_owner, template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str, database_owner: tuple[str, str]) -> Iterator[str]:
    """URL of a fresh database without anything of ours in it."""
    with new_database(postgres_url, database_owner) as url:
        yield url


_database_numbers = itertools.cycle(range(1, 16))


@pytest.fixture
def redis_db(redis_url: str) -> Iterator[int]:
    """Number of a flushed Redis database; the next test has another."""
    number = next(_database_numbers)
    with redis_py.Redis.from_url(redis_url, db=number) as client:
        client.flushdb()
        yield number
        client.flushdb()


@pytest.fixture
def environment(database_url: str, redis_url: str, redis_db: int) -> Iterator[dict[str, str]]:
    """The variables of this test, set in this process; give them to child processes too."""
    values = {
        "CALLBOARD_ENV": "development",
        "DATABASE_URL": database_url,
        "REDIS_URL": with_database(redis_url, str(redis_db)),
        "CALLBOARD_SECRET_KEY": SECRET_KEY,
        "CALLBOARD_WEBHOOK_ALLOW_LOOPBACK": "1",
    }
    with clean_environment(**values):
        yield values


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """The settings of this test; :func:`models.settings.get_settings` gives equal ones."""
    return load_settings(_env_file=None)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A synchronous engine on this test's database."""
    engine = make_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def redis(settings: Settings) -> Iterator[Any]:
    """A client of this test's Redis database."""
    with redis_py.Redis.from_url(settings.redis_url_with_db) as client:
        yield client


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The Chromium that browser tests drive."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    missing("no Chromium: apt-get install chromium")
    raise AssertionError


@pytest.fixture(scope="session")
def chromium(chromium_path: str) -> Iterator[Any]:
    """A headless browser (playwright's ``Browser``); tests open contexts of their own in it."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=flags)
        yield browser
        browser.close()
