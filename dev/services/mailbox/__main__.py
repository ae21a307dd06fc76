"""``python -m dev.services.mailbox SMTP_PORT PAGE_PORT``."""

from __future__ import annotations

import asyncio
import sys

from dev.home import Home
from dev.services.mailbox import SERVICE, USER
from dev.services.mailbox.reception import listen
from dev.services.mailbox.site import serve
from dev.services.mailbox.store import Store


async def main(smtp_port: int, page_port: int) -> None:
    """Take and show mail until SIGTERM."""
    home = Home()
    store = Store(home.folder / SERVICE.name)
    reception = await listen(store, smtp_port, USER, home.secret(SERVICE.name))
    async with reception:
        await serve(store, page_port)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
