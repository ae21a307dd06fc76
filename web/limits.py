"""How large a request's body may be, counted as it arrives."""

from __future__ import annotations

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

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > self.max_body:
            await self._problem().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_body:
                    raise self._problem()
            return message

        await self.app(scope, counted, send)

    def _problem(self) -> Problem:
        return Problem(
            413, f"The body is larger than {self.max_body:,} bytes; nothing was stored.", slug="body-too-large"
        )
