"""What the integration tests share: a ledger to write in, and a broker of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dramatiq import get_broker, set_broker
from sqlalchemy import Engine

from actors.runtime.broker import CallboardBroker, make_broker
from tests.integration.ledger_support import Book


@pytest.fixture
def book(engine: Engine) -> Book:
    """The ledger's verbs on this test's database."""
    return Book(engine)


@pytest.fixture
def broker(environment: dict[str, str]) -> Iterator[CallboardBroker]:
    """A broker of this test's own, the global one for its duration."""
    before = get_broker()
    broker = make_broker()
    set_broker(broker)
    yield broker
    broker.close()
    set_broker(before)
