"""Reading JSON bodies as strictly as the ledger keeps them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from starlette.requests import Request

from models.json_data import loads
from web.problems import Fault, Problem


async def read_object(request: Request, *, required: Set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    """The body as a JSON object with these members and no others.

    Raises:
      Problem: 415 for another content type, 422 for missing or unknown members.
      DataRefused: it is not JSON, or JSON that cannot be kept.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if not body and not required:
        return {}
    if media_type != "application/json":
        given = f"not {media_type}" if media_type else "and Content-Type must say so"
        raise Problem(
            415,
            f"The body must be application/json, {given}; nothing was stored.",
            slug="not-json",
            headers={"Accept-Post": "application/json"},
        )
    document = loads(body)
    if not isinstance(document, dict):
        raise Problem(422, "The body must be a JSON object; nothing was stored.", faults=[Fault("", "not an object")])
    faults = [Fault(f"/{name}", "is required") for name in sorted(required - document.keys())]
    faults += [
        Fault("/" + name.replace("~", "~0").replace("/", "~1")[:200], "is not a known field")
        for name in document
        if name not in required | optional
    ]
    if faults:
        raise refused(faults)
    return document


def refused(faults: list[Fault]) -> Problem:
    """422 for these faults."""
    first = faults[0]
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    detail = f"{first.where or 'The body'}: {first.detail}{more}; nothing was stored."
    return Problem(422, detail, slug="refused", faults=faults)
