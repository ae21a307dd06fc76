"""Tickets: signed addresses with which a bare ``EventSource``, which can send no header, opens a stream."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.feed import timestamp
from models.queries import one_event
from web.auth import Caller, require
from web.bodies import Body, checked, parse, read_body
from web.job_paths import job_not_found, parse_job_id
from web.problems import Problem
from web.services import services

#: Seconds within which a ticket must be used to connect; an open stream outlives it.
TICKET_LASTS_S: Final = 60
#: Types that one ticket may name.
MAX_TYPES: Final = 50

TypeName = Annotated[str, Field(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What its bearer may see: one tenant's jobs, perhaps only one job or some types."""

    tenant_id: str
    credential: str  # of whoever asked for it; a stream ends when that is revoked
    job_id: str | None = None
    types: frozenset[str] | None = None


class Tickets:
    """Signs and reads tickets. Nothing is stored: every web process with the same secret key accepts them."""

    def __init__(self, secret_key: str) -> None:
        self._serializer = URLSafeTimedSerializer(secret_key, salt="callboard.event-ticket")

    def issue(self, ticket: Ticket) -> str:
        """The ticket as text for an address."""
        types = sorted(ticket.types) if ticket.types is not None else None
        text = self._serializer.dumps([ticket.tenant_id, ticket.credential, ticket.job_id, types])
        assert isinstance(text, str)
        return text

    def read(self, text: str) -> Ticket:
        """Check a ticket.

        Raises:
          Problem: 401, expired or not ours.
        """
        try:
            # Ages are whole seconds, rounded up to the ticket's disadvantage.
            content = self._serializer.loads(text, max_age=TICKET_LASTS_S - 1)
            tenant_id, credential, job_id, types = content
        except SignatureExpired:
            raise _invalid("The ticket has expired: ask for a new one.") from None
        except (BadSignature, ValueError, TypeError):
            raise _invalid("The ticket is not valid.") from None
        return Ticket(tenant_id, credential, job_id, frozenset(types) if types is not None else None)


def _invalid(detail: str) -> Problem:
    # No WWW-Authenticate with Bearer: a ticket comes in the address. RFC 9110 wants the header all the same.
    return Problem(401, detail, slug="ticket", headers={"WWW-Authenticate": 'Ticket realm="callboard"'})


class TicketRequest(Body):
    """What a ticket is for: one job, or jobs of some types; neither: all of the tenant's."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["job", "types"],
                "properties": {"job": {"type": "string"}, "types": {"type": "array"}},
            }
        }
    )

    job: str | None = Field(None, description="A job's id.", json_schema_extra={"format": "uuid"})
    types: Annotated[list[TypeName], Field(min_length=1, max_length=MAX_TYPES)] | None = Field(
        None, description="Names of job types; instead of job."
    )

    @field_validator("types")
    @classmethod
    def _instead_of_job(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value is not None and info.data.get("job") is not None:
            raise PydanticCustomError("types", "a ticket is for one job or for types, not both")
        return value


async def post_ticket(request: Request) -> Response:
    """``POST /events/tickets``: ``{job?, types?}`` → ``{url, expires_at}``."""
    caller = await require(request)
    asked = checked(TicketRequest, parse(await read_body(request, may_be_empty=True)))
    job_id = await _found(request, caller, asked.job) if asked.job is not None else None
    types = frozenset(asked.types) if asked.types is not None else None
    # Whole seconds, as the signature's own time is.
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=TICKET_LASTS_S)
    text = services(request).tickets.issue(Ticket(caller.tenant_id, caller.credential, job_id, types))
    path = f"/jobs/{job_id}/events" if job_id else "/events"
    url = request.url.replace(path=request.scope.get("root_path", "") + path, query=urlencode({"ticket": text}))
    return JSONResponse({"url": str(url), "expires_at": timestamp(expires_at)}, headers={"Cache-Control": "no-store"})


async def _found(request: Request, caller: Caller, text: str) -> str:
    """The id of the caller's job. Raises Problem 404."""
    job_id = parse_job_id(text)
    async with services(request).engine.connect() as connection:
        row = (await connection.execute(one_event(), {"tenant": caller.tenant_id, "job_id": job_id})).first()
    if row is None:
        raise job_not_found(text)
    return str(job_id)
