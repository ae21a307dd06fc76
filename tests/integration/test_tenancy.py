"""Tenants, keys, operators, one-time links and sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from sqlalchemy import Engine, select, text, update

from models import tenancy
from models.errors import UnknownTenant
from models.tables import api_keys, operators, sign_in_links, web_sessions


def test_a_key_belongs_to_a_tenant_that_exists(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(UnknownTenant):
            tenancy.create_key(connection, "acme")
        assert tenancy.list_keys(connection) == []
        assert tenancy.ensure_tenant(connection, "acme") is True
        assert tenancy.ensure_tenant(connection, "acme") is False
        key = tenancy.create_key(connection, "acme", "laptop")
        [listed] = tenancy.list_keys(connection, "acme")
        assert (listed.tenant_id, listed.label, listed.revoked_at) == ("acme", "laptop", None)
        assert key.startswith(f"cb_{listed.id}_")
        assert tenancy.list_keys(connection, "default") == []


def test_only_a_hash_of_the_secret_is_stored(engine: Engine) -> None:
    with engine.connect() as connection:
        key = tenancy.create_key(connection, tenancy.DEFAULT_TENANT)
        parts = tenancy.split_key(key)
        assert parts is not None
        assert len(parts[1]) >= 43  # 256 bits in base64
        row = connection.execute(select(api_keys)).one()
        assert row.secret_hash == sha256(parts[1].encode()).digest()
        assert parts[1] not in repr(row)


@pytest.mark.parametrize("text", ["", "cb_", "cb__", "cb_a", "cb_a_", "cb__b", "xx_a_b", "CB_a_b", "cb_ü_b"])
def test_what_is_no_key(text: str) -> None:
    assert tenancy.split_key(text) is None


def test_a_secret_may_contain_the_separator() -> None:
    assert tenancy.split_key("cb_a_b_c_") == ("a", "b_c_")


@pytest.mark.parametrize("whole", [True, False])
def test_a_revoked_key_is_found_no_more(engine: Engine, whole: bool) -> None:
    with engine.connect() as connection:
        key = tenancy.create_key(connection, "default")
        key_id = tenancy.list_keys(connection)[0].id
        assert connection.execute(tenancy.find_key(), {"key_id": key_id}).one().tenant_id == "default"
        assert tenancy.revoke_key(connection, key if whole else key_id) is True
        assert tenancy.revoke_key(connection, key_id) is False
        assert connection.execute(tenancy.find_key(), {"key_id": key_id}).first() is None
        assert connection.execute(tenancy.valid_keys(), {"key_ids": [key_id]}).all() == []
        assert tenancy.list_keys(connection)[0].revoked_at is not None


def test_operators(engine: Engine) -> None:
    with engine.connect() as connection:
        first = tenancy.set_operator(connection, "olga", "one")
        assert tenancy.verify_operator(connection, "olga", "one") == first
        assert tenancy.verify_operator(connection, "olga", "two") is None
        assert tenancy.verify_operator(connection, "nobody", "one") is None
        assert tenancy.set_operator(connection, "olga", "two") == first
        assert tenancy.verify_operator(connection, "olga", "one") is None
        assert tenancy.verify_operator(connection, "olga", "two") == first
        stored = connection.execute(select(operators.c.password_hash)).scalar_one()
        assert stored.startswith("scrypt$")


def test_a_link_works_once_even_for_many_at_once(engine: Engine) -> None:
    with engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "x")
        token = tenancy.create_sign_in_link(connection, "olga")

    def click(_: int) -> str | None:
        with engine.connect() as connection:
            return tenancy.redeem_sign_in_link(connection, token)

    with ThreadPoolExecutor(8) as clicks:
        sessions = [session for session in clicks.map(click, range(8)) if session]
    assert len(sessions) == 1
    with engine.connect() as connection:
        session = connection.execute(tenancy.find_session(), {"token_hash": tenancy.digest(sessions[0])}).one()
    assert (session.tenant_id, session.username) == ("default", "olga")
    assert len(session.csrf_token) >= 32


def test_links_need_somebody_and_somewhere(engine: Engine) -> None:
    with engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "x")
        with pytest.raises(tenancy.UnknownOperator):
            tenancy.create_sign_in_link(connection, "nobody")
        with pytest.raises(UnknownTenant):
            tenancy.create_sign_in_link(connection, "olga", "nowhere")
        assert tenancy.redeem_sign_in_link(connection, "nonsense") is None


def test_what_has_expired_does_not_work_and_is_deleted(engine: Engine) -> None:
    past = text("now() - interval '1 second'")
    with engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "x")
        late = tenancy.create_sign_in_link(connection, "olga")
        connection.execute(update(sign_in_links).values(expires_at=past))
        assert tenancy.redeem_sign_in_link(connection, late) is None
        session = tenancy.redeem_sign_in_link(connection, tenancy.create_sign_in_link(connection, "olga"))
        assert session is not None
        mine = {"token_hash": tenancy.digest(session)}
        assert connection.execute(tenancy.find_session(), mine).first() is not None
        connection.execute(update(web_sessions).values(expires_at=past))
        assert connection.execute(tenancy.find_session(), mine).first() is None
        assert tenancy.delete_expired(connection) == 3  # the late link, the used link, the session
        assert tenancy.delete_expired(connection) == 0
