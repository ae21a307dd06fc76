"""Errors as ``application/problem+json`` (RFC 9457), with a JSON pointer (RFC 6901) or parameter per fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from redis.exceptions import RedisError
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.errors import DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy, UnknownTenant
from actors.runtime.logs import get_logger

log = get_logger("web")

MEDIA_TYPE = "application/problem+json"


class Fault(NamedTuple):
    """One thing that is wrong with a request."""

    where: str  # a JSON pointer into the body ("" = all of it), or the name of a query parameter
    detail: str
    kind: str = "pointer"  # pointer | parameter


class Problem(Exception):
    """A request that is answered with a problem document.

    Args:
      status: HTTP status, 400 or above.
      detail: what happened, what was kept, what to do.
      slug: last part of the problem's type; none: ``about:blank`` (the status says it all).
      faults: what is wrong, one entry each.
      headers: headers of the answer.
      extra: further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        slug: str | None = None,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.slug = slug
        self.faults = list(faults)
        self.headers = dict(headers or {})
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """The problem as a JSON object."""
        body: dict[str, Any] = {
            "type": f"urn:callboard:problem:{self.slug}" if self.slug else "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.faults:
            body["errors"] = [{fault.kind: fault.where, "detail": fault.detail} for fault in self.faults]
        return body | self.extra

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self.document(), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> Problem | None:
    """The problem that an exception of the layers below stands for; None: it is a bug."""
    match error:
        case Problem():
            return error
        case DataRefused():
            # What was found only when the job was about to be stored is named by the actor's arguments.
            pointer = (
                error.pointer.replace("/kwargs/", "/payload/", 1)
                if error.pointer.startswith("/kwargs/")
                else error.pointer
            )
            fault = Fault(pointer, error.reason)
            return Problem(400, f"The data cannot be kept: {error}.", slug="data-refused", faults=[fault])
        case PayloadRefused():
            faults = [Fault(f"/payload{pointer}", message) for pointer, message in error.faults]
            return Problem(422, f"The payload does not fit {error}.", slug="payload-refused", faults=faults)
        case OptionRefused():
            fault = Fault(f"/options/{error.option}", error.reason)
            return Problem(422, f"Option {error}.", slug="option-refused", faults=[fault])
        case UnicodeError():  # a form may name any character set that Python has
            return Problem(400, "The text cannot be read: it must be UTF-8, without lone surrogates.", slug="bad-text")
        case UniqueKeyBusy():
            return Problem(409, str(error), slug="unique-key-busy", headers={"Retry-After": "1"})
        case UnknownTenant():
            return Problem(409, str(error), slug="unknown-tenant")
        case HTTPException():
            detail = _DETAILS.get(error.status_code, error.detail)
            return Problem(error.status_code, detail, headers=error.headers or {})
        case DBAPIError() | PoolTimeoutError() | RedisError() if _is_outage(error):
            return Problem(
                503,
                "The database does not answer in time. A reading request changed nothing; whether a writing one took "
                "effect is unknown: look before you repeat it.",
                slug="unavailable",
                headers={"Retry-After": "2"},
            )
    return None


_DETAILS = {404: "There is nothing here.", 405: "This address does not take that method: see Allow."}
#: SQLSTATE classes of a server that is away, full, or held up: connection, resources, intervention, lock time-out.
_OUTAGES = ("08", "53", "57", "55P03")


def _is_outage(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    if isinstance(error, DataError):  # also the driver's own, which has no SQLSTATE
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state.startswith(_OUTAGES)


async def handle(request: Request, error: Exception) -> Response:
    """Exception handler of the application for everything that :func:`problem_of` knows."""
    problem = problem_of(error)
    if problem is None:
        raise error
    if problem.status == 503:
        log.warning("web.unavailable", path=request.url.path, error=str(error).partition("\n")[0])
    return problem.response()


async def handle_bug(request: Request, error: Exception) -> Response:
    """Exception handler for what nobody foresaw; the server logs the traceback."""
    problem = problem_of(error) or Problem(500, "Something broke here; the log has the details.", slug="internal")
    return problem.response()


#: For ``Starlette(exception_handlers=...)``.
HANDLERS: dict[Any, Any] = {
    **dict.fromkeys(
        (
            Problem,
            DataRefused,
            PayloadRefused,
            OptionRefused,
            UniqueKeyBusy,
            UnknownTenant,
            UnicodeError,
            HTTPException,
            DBAPIError,
            PoolTimeoutError,
            RedisError,
        ),
        handle,
    ),
    Exception: handle_bug,
}
