"""The table of idempotency keys: one writer per key, and the pruner."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from actors.runtime.broker import CallboardBroker
from actors.runtime.pruner import Pruner
from models import idempotency
from models.engine import transaction


def keep(engine: Engine, key: str, tenant: str = "default", fingerprint: bytes = b"f") -> bool:
    """Whether this answer was kept."""
    values = {"tenant": tenant, "in_key": key, "new_fingerprint": fingerprint, "new_answer": b"a"}
    with engine.connect() as connection:
        return connection.execute(idempotency.keep_answer(), values).first() is not None


def found(engine: Engine, key: str, tenant: str = "default") -> Any:
    with engine.connect() as connection:
        return connection.execute(idempotency.find_answer(), {"tenant": tenant, "in_key": key}).first()


def expire(engine: Engine, *keys: str) -> None:
    with engine.connect() as connection:
        statement = text("UPDATE callboard.idempotency_keys SET expires_at = now() WHERE key = ANY(:keys)")
        connection.execute(statement, {"keys": list(keys)})


def test_a_living_answer_is_never_replaced_and_an_expired_one_is_never_found(engine: Engine) -> None:
    assert keep(engine, "k", fingerprint=b"1")
    assert not keep(engine, "k", fingerprint=b"2")
    assert found(engine, "k").fingerprint == b"1"
    assert found(engine, "k", "another") is None
    expire(engine, "k")
    assert found(engine, "k") is None
    assert keep(engine, "k", fingerprint=b"3")
    assert found(engine, "k").fingerprint == b"3"


def test_a_lock_is_one_tenants_and_one_transactions(engine: Engine) -> None:
    numbers = {
        idempotency.lock_number(schema, tenant, key)
        for schema in ("a", "b")
        for tenant in ("a", "b")
        for key in ("a", "b", "ab")
    }
    assert len(numbers) == 12
    assert all(-(2**63) <= number < 2**63 for number in numbers)
    values = {"lock": min(numbers)}
    with transaction(engine).connect() as first, transaction(engine).connect() as second:
        assert first.execute(idempotency.take_lock(), values).scalar_one()
        assert not second.execute(idempotency.take_lock(), values).scalar_one()
        assert second.execute(idempotency.take_lock(), {"lock": max(numbers)}).scalar_one()
        first.commit()
        assert second.execute(idempotency.take_lock(), values).scalar_one()


def test_the_pruner_deletes_expired_keys_and_no_others(engine: Engine, broker: CallboardBroker) -> None:
    for key in ("old", "older", "taken", "new"):
        keep(engine, key)
    expire(engine, "old", "older", "taken")
    with transaction(engine).connect() as holder:
        holder.execute(text("SELECT 1 FROM callboard.idempotency_keys WHERE key = 'taken' FOR UPDATE"))
        Pruner(broker).run_once()  # a request that takes a key over just now is not waited for
    with engine.connect() as connection:
        left = connection.execute(text("SELECT key FROM callboard.idempotency_keys ORDER BY key")).scalars().all()
    assert left == ["new", "taken"]
