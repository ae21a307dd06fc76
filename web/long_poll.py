"""``Prefer: wait=30`` (RFC 7240): a request that is answered when the job has changed, or when the time is over.

Whoever waits is a subscriber of the hub, as an event stream is: no database connection and no question of its own
until there is something to read, and right within seconds when Redis lost the announcement (:mod:`web.feed` repairs
what subscribers are shown).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request

from web.auth import Caller, unauthorized
from web.services import services
from web.subscriber import Subscriber

#: Seconds that a request may wait at most; more is cut to this, as ``Preference-Applied`` then says.
MAX_WAIT_S: Final = 60
#: Names one preference: a token, and perhaps a value, quoted or not; parameters after ``;`` mean nothing here.
_PREFERENCE: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"([^"]*)"|([^\s;,"]*)))?\s*(?:;.*)?')

Row = Mapping[str, Any]


def wait_s(request: Request) -> int:
    """The seconds that a request wants to wait, at most :data:`MAX_WAIT_S`; 0: it does not.

    What is no number of seconds is ignored, and of several the first counts (RFC 7240, section 2).
    """
    for part in ",".join(request.headers.getlist("prefer")).split(","):
        named = _PREFERENCE.fullmatch(part)
        if named is not None and named[1].lower() == "wait":
            value = named[2] or named[3] or ""
            return min(int(value[:9]), MAX_WAIT_S) if value.isascii() and value.isdigit() else 0
    return 0


def applied(request: Request) -> dict[str, str]:
    """The header that says how long the request was ready to wait."""
    seconds = wait_s(request)
    return {"Preference-Applied": f"wait={seconds}"} if seconds else {}


async def read_when(
    request: Request,
    caller: Caller,
    job_id: str,
    read: Callable[[], Awaitable[Row | None]],
    is_enough: Callable[[str, int], bool],
) -> Row | None:
    """A job's row once it is enough, or as it is when the time is over.

    Args:
      read: one look at the ledger; None: there is no such job, which ends the wait.
      is_enough: of a status and a version.

    Raises:
      Problem: 401, the key was revoked or the session has ended meanwhile.
    """
    seconds = wait_s(request)
    if not seconds:
        return await read()
    hub = services(request).hub
    subscriber = Subscriber(caller.tenant_id, caller.credential, job_id=job_id)
    hub.join(subscriber, {})  # before the first look: what changes after it is heard
    over = asyncio.get_running_loop().call_later(seconds, subscriber.end, "waited")
    leaving = asyncio.create_task(_end_when_gone(request, subscriber))
    try:
        while (row := await read()) is not None and not is_enough(row["status"], row["version"]):
            hub.join(subscriber, {job_id: row["version"]})  # watched from here on, even if nobody announces a thing
            while heard := await subscriber.take():
                if any(change.version > row["version"] and is_enough(*_state(change.event)) for change in heard):
                    break
            else:
                if subscriber.ended == "revoked":
                    raise unauthorized("The key or the session of this request is no longer valid.")
                return await read() if subscriber.ended == "waited" else row
        return row
    finally:
        over.cancel()
        leaving.cancel()
        hub.leave(subscriber)


def _state(event: Mapping[str, Any]) -> tuple[str, int]:
    return event["status"], event["version"]


async def _end_when_gone(request: Request, subscriber: Subscriber) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    subscriber.end("gone")
