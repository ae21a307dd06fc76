"""The event loop of async actors: the stock middleware, on a thread that cannot keep a process from ending."""

from __future__ import annotations

from dramatiq import Broker, Worker
from dramatiq.asyncio import EventLoopThread, set_event_loop_thread
from dramatiq.middleware import AsyncIO

#: Seconds that the loop may take to start on a busy machine; the stock middleware gives up after one.
START_TIMEOUT_S = 30.0


class EventLoop(AsyncIO):
    """As AsyncIO. A second SIGTERM ends the process at once, also while a coroutine hangs: the thread is a daemon."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start the loop."""
        thread = EventLoopThread(self.logger)
        thread.daemon = True
        thread.start(timeout=START_TIMEOUT_S)
        set_event_loop_thread(thread)
