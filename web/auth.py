"""Who asks: an API key in ``Authorization``, a browser's session cookie, or a ticket in the address.

A tenant is decided here and nowhere else; every query takes it from the :class:`Caller`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request

from models import tenancy
from web.database import Database
from web.problems import Problem
from web.services import services

COOKIE: Final = "cb_session"
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
#: Seconds that a key or session found valid is not asked about again: how late a revocation acts.
REMEMBER_S: Final = 5.0
#: Keys and sessions remembered at most.
REMEMBERED: Final = 10_000
#: Methods that change nothing.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request's tenant, and by what it proved itself.

    Attributes:
      credential: ``key:<id>`` or ``session:<hash>``; streams ask again and again whether it still holds.
      username, operator_id: the operator of a session; None for a key.
      csrf_token: what state-changing requests of this session must carry.
    """

    tenant_id: str
    credential: str
    username: str | None = None
    csrf_token: str | None = None
    operator_id: UUID | None = None

    @property
    def session_hash(self) -> bytes:
        """What the database knows this session by; only where there is an ``operator_id``."""
        return bytes.fromhex(self.credential.removeprefix("session:"))


class Keyring:
    """Looks up keys and sessions, and remembers for a moment what it found."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, tuple[float, Caller, bytes]] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    async def by_key(self, key: str) -> Caller | None:
        """The caller with this API key, or None."""
        parts = tenancy.split_key(key)
        if parts is None:
            return None
        key_id, secret = parts
        credential, digest = f"key:{key_id}", tenancy.digest(secret)
        found = self._recall(credential)
        if found is None:
            async with self._asking(credential):
                found = self._recall(credential) or await self._find_key(key_id, digest)
        if found is None:
            return None
        caller, expected = found
        return caller if compare_digest(expected, digest) else None

    async def _find_key(self, key_id: str, digest: bytes) -> tuple[Caller, bytes] | None:
        async with self._database.credentials([key_id]) as connection:
            row = (await connection.execute(tenancy.find_key(), {"key_id": key_id})).first()
            if row is None or not compare_digest(row.secret_hash, digest):
                return None
            await connection.execute(tenancy.note_key_use(), {"key_id": key_id})
        return self._remember(Caller(row.tenant_id, f"key:{key_id}"), row.secret_hash)

    async def by_session(self, token: str) -> Caller | None:
        """The caller with this session cookie, or None."""
        digest = tenancy.digest(token)
        credential = f"session:{digest.hex()}"
        found = self._recall(credential)
        if found is None:
            async with self._asking(credential):
                found = self._recall(credential) or await self._find_session(digest, credential)
        return found[0] if found else None

    async def _find_session(self, digest: bytes, credential: str) -> tuple[Caller, bytes] | None:
        async with self._database.credentials([digest.hex()]) as connection:
            row = (await connection.execute(tenancy.find_session(), {"token_hash": digest})).first()
        if row is None:
            return None
        return self._remember(Caller(row.tenant_id, credential, row.username, row.csrf_token, row.operator_id), digest)

    @asynccontextmanager
    async def _asking(self, credential: str) -> AsyncIterator[None]:
        """One question at a time per credential: thousands of clients of one key may come back at once."""
        lock = self._locks.setdefault(credential, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(credential, None)

    async def still_valid(self, credentials: set[str]) -> set[str]:
        """Those of these credentials that were neither revoked nor expired."""
        keys = [c.removeprefix("key:") for c in credentials if c.startswith("key:")]
        sessions = [bytes.fromhex(c.removeprefix("session:")) for c in credentials if c.startswith("session:")]
        valid: set[str] = set()
        async with self._database.credentials([*keys, *(session.hex() for session in sessions)]) as connection:
            if keys:
                rows = await connection.execute(tenancy.valid_keys(), {"key_ids": keys})
                valid |= {f"key:{row.id}" for row in rows}
            if sessions:
                rows = await connection.execute(tenancy.valid_sessions(), {"token_hashes": sessions})
                valid |= {f"session:{row.token_hash.hex()}" for row in rows}
        return valid

    def forget(self, credential: str) -> None:
        """Ask again at the next request."""
        self._known.pop(credential, None)

    def _recall(self, credential: str) -> tuple[Caller, bytes] | None:
        entry = self._known.get(credential)
        if entry is None or entry[0] < time.monotonic():
            return None
        return entry[1], entry[2]

    def _remember(self, caller: Caller, secret_hash: bytes) -> tuple[Caller, bytes]:
        self._known[caller.credential] = (time.monotonic() + REMEMBER_S, caller, secret_hash)
        self._known.move_to_end(caller.credential)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return caller, secret_hash


async def identify(request: Request) -> Caller | None:
    """Who this is, or None when nobody says; asks for no CSRF token, so for pages and reading only.

    Raises:
      Problem: 401 when an Authorization header is there and wrong, whatever cookie is there too.
    """
    keyring = services(request).keyring
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        caller = await keyring.by_key(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise unauthorized("The API key is not valid (wrong, revoked, or not of the form cb_<id>_<secret>).")
        return caller
    token = request.cookies.get(COOKIE)
    return await keyring.by_session(token) if token else None


async def require(request: Request) -> Caller:
    """Who this is; for a browser's state-changing request, with its origin and the session's CSRF token checked.

    Raises:
      Problem: 401 nobody or somebody unknown, 403 the token is missing or wrong, or the page is another site's.
    """
    caller = await identify(request)
    if caller is None:
        raise unauthorized("An API key is needed: Authorization: Bearer cb_<id>_<secret>.")
    if caller.csrf_token is not None and request.method not in SAFE_METHODS:
        refuse_other_sites(request)
        given = request.headers.get(CSRF_HEADER)
        if given is None and request.headers.get("content-type", "").startswith(_FORMS):
            await request.body()  # kept, so that the endpoint can read it, too
            field = (await request.form()).get(CSRF_FIELD)
            given = field if isinstance(field, str) else None
        if given is None or not compare_digest(given.encode(), caller.csrf_token.encode()):
            raise Problem(
                403,
                f"A signed-in page must send its token as {CSRF_HEADER} or form field {CSRF_FIELD}; nothing was done.",
                slug="csrf",
            )
    return caller


def refuse_other_sites(request: Request) -> None:
    """Somebody else's page must not act, or sign its visitor in, here: the browser says whose page it is.

    Raises:
      Problem: 403. Programs that are no browser say nothing, and pass.
    """
    origin = request.headers.get("origin")
    foreign = origin is not None and _host_of(origin) != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(403, "Do this on the site's own page; nothing was done.", slug="other-site")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def unauthorized(detail: str) -> Problem:
    """401, saying how to do better."""
    return Problem(401, detail, slug="unauthorized", headers={"WWW-Authenticate": 'Bearer realm="callboard"'})
