"""How large a request's body may be, counted as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.problems import Problem

#: Bytes of a body.
MAX_BODY: Final = 1024 * 1024


class BodyLimit:
    """Refuse bodies that are too large: at once when Content-Length says so, otherwise when they prove to be.

    Starlette's own limit answers in plain text, whatever the exception handlers say.
    """

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY, larger: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.max_body = max_body
        #: By path prefix, where another limit holds.
        self.larger = dict(larger or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_body = next((size for path, size in self.larger.items() if _path(scope).startswith(path)), self.max_body)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > max_body:
            await _problem(max_body).response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > max_body:
                    raise _problem(max_body)
            return message

        await self.app(scope, counted, send)


def _path(scope: Scope) -> str:
    """The address below wherever the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _problem(max_body: int) -> Problem:
    return Problem(413, f"The body is larger than {max_body:,} bytes; nothing was stored.", slug="body-too-large")
