"""The routes of the feed: ``GET /events`` and ``GET /jobs/{id}/events``, server-sent events.

First a snapshot (``event: job`` per live job), then every change. The stream of one job stays open after the job
has ended, because a retry by hand may move it again; the client closes it when it has seen enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors.runtime.logs import get_logger
from web.auth import require
from web.job_paths import job_not_found, parse_job_id
from web.openings import Opening, join
from web.problems import Fault, Problem
from web.services import services
from web.subscriber import QUEUE, Subscriber
from web.tickets import Ticket

log = get_logger("feed")

#: Seconds between pings, and seconds that one send may wait for a client that does not read.
PING_S: Final = 15
SEND_TIMEOUT_S: Final = 10.0


class EventStream(EventSourceResponse):
    """A stream whose slow client is an event for the log, not an error of the server."""

    def __init__(self, content: AsyncIterator[Any]) -> None:
        super().__init__(content, ping=PING_S, send_timeout=SEND_TIMEOUT_S, headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the client, the subscriber or the server ends."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("feed.client_stalled", client=scope.get("client"))


async def get_events(request: Request) -> Response:
    """``GET /events?type=``: the tenant's jobs; ``type`` may stand there several times."""
    _only(request, "type", "ticket")
    types = frozenset(request.query_params.getlist("type")) or None
    ticket = await _ticket_or_key(request)
    if ticket.job_id is not None:
        raise Problem(403, "This ticket is for one job's events.", slug="ticket")
    if ticket.types is not None:
        types = ticket.types if types is None else types & ticket.types
    subscriber = Subscriber(ticket.tenant_id, ticket.credential, types=types)
    return await _stream(request, subscriber)


async def get_job_events(request: Request) -> Response:
    """``GET /jobs/{id}/events``: one job."""
    _only(request, "ticket")
    text = request.path_params["job_id"]
    job_id = str(parse_job_id(text))
    ticket = await _ticket_or_key(request)
    if ticket.job_id not in (None, job_id) or ticket.types is not None:
        raise Problem(403, "This ticket is for other events.", slug="ticket")
    return await _stream(request, Subscriber(ticket.tenant_id, ticket.credential, job_id=job_id))


async def _stream(request: Request, subscriber: Subscriber) -> Response:
    opening = await _open(request, subscriber)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def frames() -> AsyncIterator[bytes]:
        hub, current = services(request).hub, opening
        try:
            while (first := join(hub, subscriber, current)) is None:
                current = await _open(request, subscriber)
            if first:
                yield first
            while batch := await subscriber.take():
                yield b"".join(change.frame() for change in batch)
            if subscriber.ended == "slow":
                log.warning("feed.client_dropped", tenant_id=subscriber.tenant_id, waiting=QUEUE)
        finally:
            hub.leave(subscriber)

    return EventStream(frames())


async def _open(request: Request, subscriber: Subscriber) -> Opening:
    openings, last_event_id = services(request).openings, request.headers.get("last-event-id")
    if subscriber.job_id is None:
        return await openings.all(subscriber, last_event_id)
    opening = await openings.one(subscriber.tenant_id, subscriber.job_id, last_event_id)
    if opening is None:
        raise job_not_found(subscriber.job_id)
    return opening


async def _ticket_or_key(request: Request) -> Ticket:
    text = request.query_params.get("ticket")
    if text is None:
        caller = await require(request)
        return Ticket(caller.tenant_id, caller.credential)
    held = services(request)
    ticket = held.tickets.read(text)
    if not await held.keyring.still_valid({ticket.credential}):
        raise Problem(401, "The key that this ticket was made with is no longer valid.", slug="ticket")
    return ticket


def _only(request: Request, *names: str) -> None:
    faults = [
        Fault(name[:100], "is not a parameter here", "parameter") for name in request.query_params if name not in names
    ]
    if faults:
        raise Problem(400, f"{faults[0].where}: {faults[0].detail}.", slug="bad-parameter", faults=faults)
