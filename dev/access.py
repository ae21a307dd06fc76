"""The default tenant, its key and the operator that ``up`` provides."""

from __future__ import annotations

from dataclasses import dataclass

from dev.administration import PATIENCE_MS
from dev.home import Home
from models import tenancy
from models.engine import make_engine, transaction
from models.settings import Settings

TENANT = tenancy.DEFAULT_TENANT
OPERATOR = "operator"


@dataclass(frozen=True)
class Access:
    """How to get in.

    Attributes:
      api_key: of the tenant ``default``.
      sign_in_token: good for one sign-in.
    """

    api_key: str
    operator_password: str
    sign_in_token: str


def provide_access(home: Home, settings: Settings) -> Access:
    """Make the tenant, its key and the operator, or find those of last time."""
    engine = make_engine(settings, pool_size=1, idle_in_transaction_session_timeout=PATIENCE_MS)
    try:
        with transaction(engine).begin() as connection:
            tenancy.ensure_tenant(connection, TENANT)
            key = home.known_secret("api_key")
            alive = {row.id for row in tenancy.list_keys(connection, TENANT) if row.revoked_at is None}
            parts = tenancy.split_key(key) if key else None
            if key is None or parts is None or parts[0] not in alive:
                key = tenancy.create_key(connection, TENANT, "made by ./callboard up")
            password = home.secret("operator_password")
            tenancy.set_operator(connection, OPERATOR, password)
            token = tenancy.create_sign_in_link(connection, OPERATOR, TENANT)
        home.keep_secret("api_key", key)
        return Access(key, password, token)
    finally:
        engine.dispose()
