"""A scheduler as a process of its own, by a clock that runs faster: ``scheduler_process KIND BEGAN SPEED``.

``ticker``: what maintenance does. ``periodiq``: what periodiq does at a tick, which is to send with ``scheduled_at``.
Both share the actors, and run until they are killed.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

import dramatiq
from dramatiq import set_broker

from actors.runtime.broker import make_broker
from actors.runtime.cron import cron
from actors.runtime.ticker import Ticker

#: What the fast clock shows at the real time BEGAN.
EPOCH = datetime(2030, 1, 7, tzinfo=UTC)


def main(kind: str, began: float, speed: float) -> None:
    """Make ticks for ever."""

    def now() -> datetime:
        return EPOCH + timedelta(seconds=(time.time() - began) * speed)

    broker = make_broker()
    set_broker(broker)
    broker.ticker = Ticker(broker, now)
    schedules = [cron("* * * * *", missed="all", at_most=1000)]
    minutely = dramatiq.actor(lambda: None, actor_name="minutely", periodic=schedules)
    while True:
        if kind == "ticker":
            broker.ticker.run_once()
        else:
            minutely.send_with_options(scheduled_at=now().isoformat())
        time.sleep(0.2 * 60 / speed)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
