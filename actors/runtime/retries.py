"""Dramatiq's Retries with the count of the ledger and three more ways for an attempt to end."""

from __future__ import annotations

from typing import Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Retries, Shutdown

from actors.runtime.errors import JobCancelled, PermanentError, Snooze

#: An attempt that ends with one of these is given back: it does not count (DESIGN section 3).
GIVEN_BACK = (RateLimitExceeded, Shutdown, Snooze)


class LedgerRetries(Retries):
    """The stock middleware, except that it leaves alone what is no failure and what cannot succeed.

    The delay and the decision of a retry are Dramatiq's own; the recorder turns them into a row update.
    """

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Decide about a failed attempt; see the class."""
        if isinstance(exception, (JobCancelled, *GIVEN_BACK)):
            return
        if isinstance(exception, PermanentError):
            message.fail()
            return
        super().after_process_message(  # type: ignore[no-untyped-call]
            broker, message, result=result, exception=exception
        )
