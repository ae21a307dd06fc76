"""The stream's reader ends when it is told to, even when the driver swallows the wish."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from models.settings import Settings
from web.feed import StreamReader
from web.hub import Hub


class Swallows:
    """A client whose blocking read answers a cancellation with something else."""

    def __init__(self, instead: Exception | None) -> None:
        self.instead = instead
        self.reads = 0

    async def set(self, *_: Any, **__: Any) -> None: ...

    async def get(self, _: str) -> str:
        return "marker"

    async def info(self, _: str) -> dict[str, str]:
        return {"run_id": "r"}

    async def xrevrange(self, *_: Any, **__: Any) -> list[Any]:
        return []

    async def xread(self, *_: Any, **__: Any) -> list[Any]:
        self.reads += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.instead is not None:
                raise self.instead from None
        return []


@pytest.mark.parametrize("instead", [None, RedisTimeoutError("late"), OSError("gone")])
def test_a_swallowed_cancellation_ends_the_reader_all_the_same(instead: Exception | None) -> None:
    async def run() -> None:
        client = Swallows(instead)
        settings = Settings(database_url="postgresql://h/d", redis_url="redis://h", _env_file=None)  # type: ignore[call-arg]
        task = asyncio.create_task(StreamReader(settings, client, Hub()).run())  # type: ignore[arg-type]
        while not client.reads:
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2)
        assert task in done
        assert task.cancelled()
        assert client.reads == 1

    asyncio.run(run())
