"""``sleep``: does nothing for a while, cancellable; for trying things out."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import dramatiq
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from pydantic.alias_generators import to_camel

from actors.runtime import current_job, job_type

#: Seconds between two reports of progress; the feed passes on at most four a second.
REPORT_EVERY_S = 0.5


class SleepPayload(BaseModel):
    """What ``POST /jobs`` takes as the payload of a ``sleep`` job."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    delay_ms: StrictInt = Field(ge=0, le=60_000, description="milliseconds", examples=[5_000])


def doze(
    delay_ms: int,
    *,
    wait: Callable[[float], object],
    report: Callable[[int, int, str], object],
    clock: Callable[[], float] = monotonic,
) -> dict[str, int]:
    """Sleep in steps, telling how far it is.

    Args:
      delay_ms: milliseconds to sleep.
      wait: sleeps up to so many seconds; raises when the sleeper was cancelled.
      report: takes milliseconds done, milliseconds in all and a message.
      clock: seconds that only rise.

    Returns:
      ``{"slept_ms": delay_ms}``.
    """
    start = clock()
    end = start + delay_ms / 1000
    while (left := end - clock()) > 0:
        wait(min(left, REPORT_EVERY_S))
        done_ms = int((clock() - start) * 1000)
        if done_ms < delay_ms:
            report(done_ms, delay_ms, "sleeping")
    return {"slept_ms": delay_ms}


@job_type(SleepPayload)
@dramatiq.actor(actor_name="sleep")
def sleep(delay_ms: int) -> dict[str, int]:
    """Wait for a while, telling how far it is; ends at once when cancelled."""
    job = current_job()
    return doze(delay_ms, wait=job.wait, report=job.progress)
