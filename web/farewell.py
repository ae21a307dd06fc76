"""The end of streams and long polls when the server stops.

uvicorn waits for every open request before it tells the application that it is stopping; these have no end of their
own. So its intention is looked up where it is first known: at the server that its signal handler belongs to.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from web.hub import Hub

#: Seconds between two looks.
LOOK_EVERY_S: Final = 0.25


async def watch_for_the_end(hub: Hub) -> None:
    """End what is open as soon as the server wants to stop, and what is opened after that."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if _is_stopping():
            hub.drop("closing")


def _is_stopping() -> bool:
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
