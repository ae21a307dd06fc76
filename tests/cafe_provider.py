"""The local places provider, answering over HTTP from a thread of the test's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dev.cafe_seed import seeds
from dev.services.places import Provider
from tests.support import wait_for

KEY = "the-provider's-key"


@contextmanager
def serving() -> Iterator[tuple[Provider, str]]:
    """A provider that knows every seeded café, and its address."""
    provider = Provider([seed.place for seed in seeds()], KEY)
    server = uvicorn.Server(uvicorn.Config(provider.app(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, what="the provider answers")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield provider, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
