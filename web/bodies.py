"""Reading JSON bodies as strictly as the ledger keeps them, and as their models say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from models.json_data import MAX_DEPTH, clean_text, loads
from web.problems import Fault, Problem

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

#: Faults that one answer names.
MAX_FAULTS: Final = 100
#: Large bodies that are read at a time; each may cost seconds and ten times its size. Others wait, and small requests,
#: which have the event loop's own threads, pass them by.
LARGE_AT_ONCE: Final = 1
#: Characters of one name in a fault's pointer.
_NAME_CHARS: Final = 200

#: Our words for what pydantic says in Python's.
_WORDS: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
}


class Body(BaseModel):
    """A body or part of one: JSON's types as they are, no others, and no unknown member."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def read_body(request: Request, *, may_be_empty: bool = False) -> bytes:
    """The body, if it is said to be JSON; ``{}`` for an empty one where that is allowed.

    Raises:
      Problem: 413, or 415 for another content type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if not body and may_be_empty:
        return b"{}"
    if media_type != "application/json":
        given = f"not {media_type}" if media_type else "and Content-Type must say so"
        raise Problem(
            415,
            f"The body must be application/json, {given}; nothing was stored.",
            slug="not-json",
            headers={"Accept-Post": "application/json"},
        )
    return body


async def in_turn(function: Callable[..., T], *arguments: Any) -> T:
    """What a function makes of a large body, in a thread, when it is its turn."""
    return await to_thread.run_sync(function, *arguments, limiter=_large_bodies())


@cache
def _large_bodies() -> CapacityLimiter:
    return CapacityLimiter(LARGE_AT_ONCE)


def parse(body: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
      DataRefused: it is not JSON, or JSON that cannot be kept. Problem: 422, it is something else than an object.
    """
    document = loads(body, max_depth=max_depth)
    if not isinstance(document, dict):
        raise Problem(422, "The body must be a JSON object; nothing was stored.", faults=[Fault("", "not an object")])
    return document


def checked(model: type[M], document: Any) -> M:
    """The document as its model has it.

    Raises:
      Problem: 422, with a pointer per fault.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise refused(
            [
                Fault(pointer(fault["loc"]), _WORDS.get(fault["type"], fault["msg"]).removeprefix("Value error, "))
                for fault in error.errors(include_url=False, include_input=False)
            ]
        ) from None


def pointer(location: Sequence[int | str]) -> str:
    """RFC 6901; names are cut, as they may be the client's own."""
    names = (clean_text(part, _NAME_CHARS).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{name}" for name in names)


def refused(faults: Sequence[Fault]) -> Problem:
    """422 for these faults, the first :data:`MAX_FAULTS` of them named."""
    first = faults[0]
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    detail = f"{first.where or 'The body'}: {first.detail}{more}; nothing was stored."
    return Problem(422, detail, slug="refused", faults=faults[:MAX_FAULTS])
