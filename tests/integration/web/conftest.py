"""One database, Redis database and web process per module; each test makes tenants of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from models.engine import make_engine
from models.settings import Settings, load_settings
from tests.conftest import SECRET_KEY, clean_environment, new_database, with_database
from tests.ledger_driver import Driver
from tests.web_server import ORIGIN, WebServer, web_server

#: Redis database of these modules: tests with one of their own come there last.
REDIS_DB = 15


@pytest.fixture(scope="module")
def web_environment(
    postgres_url: str, database_owner: tuple[str, str], template_database: str, redis_url: str
) -> Iterator[dict[str, str]]:
    """The variables of this module's web process."""
    with (
        redis_py.Redis.from_url(redis_url, db=REDIS_DB) as client,
        new_database(postgres_url, database_owner, template_database) as database_url,
    ):
        client.flushdb()
        yield {
            "CALLBOARD_ENV": "development",
            "DATABASE_URL": database_url,
            "REDIS_URL": with_database(redis_url, str(REDIS_DB)),
            "CALLBOARD_SECRET_KEY": SECRET_KEY,
            "CALLBOARD_CORS_ORIGINS": ORIGIN,
        }
        client.flushdb()


@pytest.fixture(scope="module")
def web_settings(web_environment: dict[str, str]) -> Settings:
    """The same, as settings."""
    with clean_environment(**web_environment):
        return load_settings(_env_file=None)


@pytest.fixture(scope="module")
def web(web_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """This module's web process."""
    log: Path = tmp_path_factory.mktemp("web") / "web.log"
    with web_server(web_environment, log) as server:
        yield server


@pytest.fixture(scope="module")
def driver(web_settings: Settings) -> Iterator[Driver]:
    """Moves jobs of this module's database."""
    engine = make_engine(web_settings)
    with redis_py.Redis.from_url(web_settings.redis_url_with_db) as client:
        yield Driver(engine, client, web_settings)
    engine.dispose()


@pytest.fixture
def tenant(driver: Driver) -> tuple[str, str]:
    """A new tenant and its key."""
    return driver.tenant()


@pytest.fixture
def api(web: WebServer, tenant: tuple[str, str]) -> Iterator[httpx.Client]:
    """A client with this test's tenant's key."""
    with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {tenant[1]}"}, timeout=20) as client:
        yield client


@pytest.fixture
def nobody(web: WebServer) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=web.url, timeout=20) as client:
        yield client
