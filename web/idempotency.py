"""``Idempotency-Key``: a request that is repeated takes effect once, and is answered the same (ADR 0011)."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dramatiq import Message
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.requests import Request

from actors.runtime.sending import explained, our_broker, send_many
from models import idempotency, queries
from models.engine import transaction
from models.errors import UniqueKeyBusy
from models.rows import Row, all_rows
from web.problems import Fault, Problem

HEADER: Final = "Idempotency-Key"
#: Says of an answer that it is an earlier one.
REPLAYED: Final = "Idempotent-Replayed"
#: What a key may be; the OpenAPI document shows it.
KEY_SCHEMA: Final = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}

_KEY = re.compile("[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Once:
    """A request that must take effect once.

    Attributes:
      fingerprint: SHA-256 of what the request asks for; the same key with another one is a mistake.
    """

    key: str
    fingerprint: bytes


class Answer(NamedTuple):
    """What a request is answered."""

    document: dict[str, Any]
    replayed: bool = False

    def headers(self) -> dict[str, str]:
        """The header that tells a replayed answer."""
        return {REPLAYED: "true"} if self.replayed else {}


Render = Callable[[Sequence[tuple[Row, bool]]], dict[str, Any]]


def read_key(request: Request) -> str | None:
    """The request's key, or None. Raises Problem 400."""
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        detail = "must stand there once, with 1 to 255 visible ASCII characters"
        faults = [Fault(HEADER, detail, "parameter")]
        raise Problem(400, f"{HEADER}: {detail}; nothing was stored.", slug="bad-parameter", faults=faults)
    return given[0]


def once(key: str | None, operation: str, document: Mapping[str, Any]) -> Once | None:
    """The request's key with its fingerprint.

    Args:
      operation: method and path.
      document: the body; the order of its members and its white space make no difference.
    """
    if key is None:
        return None
    body = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Once(key, hashlib.sha256(f"{operation}\n{body}".encode()).digest())


def accept(tenant_id: str, messages: Sequence[Message[Any]], render: Render, only: Once | None) -> Answer:
    """Send messages and remember what was answered, in one transaction; blocks, so call it in a thread.

    Args:
      render: makes the answer of the jobs in order, each with whether it is an older job with the same unique key.
      only: the request's key; without one nothing is remembered.

    Raises:
      Problem: 422 the key was used for another request, 409 its first request is not over yet.
      DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy, UnknownTenant: nothing was stored.
    """
    try:
        # A job that was sent while the session is open rings when that has committed.
        with Session(transaction(our_broker().resources.engine)) as session, session.begin():
            if only is not None and (earlier := _earlier(session, tenant_id, only)) is not None:
                return Answer(earlier, replayed=True)
            document = render(_sent(session, tenant_id, messages))
            if only is not None:
                _keep(session, tenant_id, only, document)
            return Answer(document)
    except DBAPIError as error:
        raise explained(error) from error


def _earlier(session: Session, tenant_id: str, only: Once) -> dict[str, Any] | None:
    lock = idempotency.lock_number(our_broker().settings.db_schema, tenant_id, only.key)
    if not session.execute(idempotency.take_lock(), {"lock": lock}).scalar_one():
        raise _in_flight()
    row = session.execute(idempotency.find_answer(), {"tenant": tenant_id, "in_key": only.key}).first()
    if row is None:
        return None
    if row.fingerprint != only.fingerprint:
        raise Problem(
            422,
            f"This {HEADER} was used for another request; nothing was stored.",
            slug="idempotency-key-reused",
            faults=[Fault(HEADER, "was used for another request", "parameter")],
        )
    document: dict[str, Any] = json.loads(zlib.decompress(row.answer))
    return document


def _sent(session: Session, tenant_id: str, messages: Sequence[Message[Any]]) -> list[tuple[Row, bool]]:
    sent = send_many(messages, session=session)
    values = {"tenant": tenant_id, "job_ids": sorted({message.message_id for message in sent})}
    rows = {str(row["id"]): row for row in all_rows(session.execute(queries.some_jobs(), values))}  # type: ignore[arg-type]
    if len(rows) < len(values["job_ids"]):
        raise UniqueKeyBusy("the job that held a unique key was deleted just now; nothing was stored")
    return [(rows[message.message_id], bool(message.options.get("duplicate"))) for message in sent]


def _keep(session: Session, tenant_id: str, only: Once, document: Mapping[str, Any]) -> None:
    values = {
        "tenant": tenant_id,
        "in_key": only.key,
        "new_fingerprint": only.fingerprint,
        "new_answer": zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1),
    }
    if session.execute(idempotency.keep_answer(), values).first() is None:
        raise _in_flight()  # by somebody with another idea of the lock, such as an older release


def _in_flight() -> Problem:
    return Problem(
        409,
        f"The first request with this {HEADER} is not over yet; repeat this one in a moment.",
        slug="idempotency-key-in-flight",
        headers={"Retry-After": "1"},
    )
