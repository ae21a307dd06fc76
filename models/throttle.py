"""How often somebody may try to sign in, counted in Postgres: for all web processes, and whatever Redis forgets.

A try is counted before its password is checked, so that many at once are no more than many in turn. The count
begins anew some time after its first try; tries while waiting do not prolong the wait.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Any, Final

from sqlalchemy import (
    Delete,
    Integer,
    Interval,
    Text,
    Update,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from models.arrays import rows_of
from models.tables import sign_in_attempts as attempts

#: Tries for one user name, wherever they come from, and from one address, whatever the name, per window.
TRIES_PER_NAME: Final = 10
TRIES_PER_ADDRESS: Final = 50
WINDOW: Final = timedelta(minutes=5)

_window = cast(WINDOW, Interval)


def key_of_name(username: str) -> str:
    """What tries for a user name are counted under; unknown names too, so that waiting tells nothing."""
    return sha256(f"name:{username}".encode("utf-8", "surrogatepass")).hexdigest()


def key_of_address(address: str) -> str:
    """What tries from an address are counted under; IPv6 by /64, which is what one host has."""
    try:
        parsed = ip_address(address)
        # All of IPv4 as a proxy or a socket for both families writes it, ::ffff:192.0.2.1, lies in one /64.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        place = str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
    except ValueError:  # no address: a test's client, or a Unix socket
        place = address
    return sha256(f"address:{place}".encode("utf-8", "surrogatepass")).hexdigest()


@cache
def count_tries() -> ReturningInsert[Any]:
    """Count one more try under each key; rows (key, tries, wait_s). Parameter: ``try_key`` (list, sorted: the order
    of the locks)."""
    tried = rows_of("try", key=Text())
    is_over = attempts.c.began_at <= func.now() - _window
    source = insert(attempts).from_select(["key", "tries"], select(tried.c.key, literal(1, Integer)))
    wait = func.extract("epoch", attempts.c.began_at + _window - func.now())
    return source.on_conflict_do_update(
        index_elements=[attempts.c.key],
        set_={
            "tries": case((is_over, 1), else_=attempts.c.tries + 1),
            "began_at": case((is_over, func.now()), else_=attempts.c.began_at),
        },
    ).returning(attempts.c.key, attempts.c.tries, wait.label("wait_s"))


@cache
def forget_tries() -> Delete:
    """Who has signed in begins anew. Parameter: ``forgotten`` (key)."""
    return delete(attempts).where(attempts.c.key == bindparam("forgotten", type_=Text()))


@cache
def take_back_try() -> Update:
    """A right password was no try to guess one. Parameter: ``forgiven`` (key)."""
    return (
        update(attempts)
        .values(tries=attempts.c.tries - 1)
        .where(attempts.c.key == bindparam("forgiven", type_=Text()), attempts.c.tries > 0)
    )


@cache
def delete_old_tries() -> Delete:
    """What no longer counts."""
    return delete(attempts).where(attempts.c.began_at <= func.now() - _window)
