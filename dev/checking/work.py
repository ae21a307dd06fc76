"""Workers and the jobs that wait for them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from actors.runtime.keys import LIST_CAP, list_key
from actors.runtime.liveness import BEAT_S
from dev.checking.finding import Context, Finding, error, warning
from models import diagnosis, liveness
from models.schedules import stale_schedules

pause = time.sleep
#: Seconds that a due job may wait before somebody should have been there for it.
WAITED_S: Final = 10.0
#: Seconds that a due job may be without an offer: far longer than any relay interval.
UNDISPATCHED_S: Final = 30.0
#: Seconds in which the jobs of a dead worker should have been taken back.
DEAD_S: Final = 10.0
#: Seconds of silence of a worker without its lock after which it does not count as living.
SILENT_S: Final = 10.0
#: Seconds in which a living worker beats at least once.
LOOK_AGAIN_S: Final = 1.5 * BEAT_S
#: Seconds that count as "lately".
LATELY_S: Final = 3_600.0
#: Schedules that a finding names.
NAMED: Final = 5


def workers(context: Context) -> Iterable[Finding]:
    """Somebody lives for every queue in which something waits."""
    # Who has vanished is on the roll until somebody declares it dead, and perhaps nobody is left who could.
    living = [row for row in _roll_call(context) if row.kind == "worker" and (row.held or row.silent_s <= SILENT_S)]
    attended = {queue for row in living for queue in row.queues}
    waiting = context.connection.execute(diagnosis.waiting(), {"waited_s": WAITED_S}).all()
    if not living and not waiting:
        yield warning(
            "no-worker",
            "No worker has signed in",
            "Jobs that are sent now wait",
            "Start some: ./callboard up, or dramatiq actors -p 1 under a supervisor",
        )
    for row in waiting:
        if row.queue not in attended:
            age = (datetime.now(UTC) - row.oldest).total_seconds()
            yield error(
                "queue-unattended",
                f"{_number(row.number)} due job(s) wait in the queue {row.queue}, for up to {age:.0f} s, and no living "
                "worker listens to it",
                "They wait until one does",
                "Start workers whose CALLBOARD_ACTORS declare that queue, without -Q or with it named there",
            )


def locks(context: Context) -> Iterable[Finding]:
    """A worker that beats holds its session lock; one that is silent is on its way to be dead."""
    seen = _roll_call(context)
    for row in seen:
        if row.held and row.silent_s > context.settings.lease_s / 2:
            yield error(
                "worker-silent",
                f"The {_who(row)} holds its lock but has been silent for {row.silent_s:.0f} s",
                f"After {context.settings.lease_s:.0f} s it counts as lost and its jobs run again elsewhere",
                "See whether it is stopped, starved, or in a call that holds the interpreter's lock",
            )
    unlocked = {row.id: float(row.silent_s) for row in seen if not row.held}
    if not unlocked:
        return
    # It may have died this moment, and be declared dead in the next; or it beats on, without a lock.
    pause(LOOK_AGAIN_S)
    for row in _roll_call(context):
        if row.held or row.id not in unlocked:
            continue
        if float(row.silent_s) < unlocked[row.id] + LOOK_AGAIN_S / 2:
            yield error(
                "lock-missing",
                f"The {_who(row)} beats, but nobody holds its session lock",
                "It is declared lost again and again, and its jobs run twice",
                "Give workers a DATABASE_URL that leads to Postgres itself, not through a pooler in transaction mode",
            )
        else:
            yield error(
                "worker-gone",
                f"The {_who(row)} has vanished {row.silent_s:.0f} s ago and nobody has declared it dead",
                "Its jobs stay RUNNING until a worker with maintenance does so",
                "Start a worker; if some run, read their log for maintenance.waits",
            )


def running_of_the_dead(context: Context) -> Iterable[Finding]:
    """The rescuer takes them back within seconds."""
    found = context.connection.execute(diagnosis.running_of_the_dead(), {"dead_s": DEAD_S}).one()
    if found.number:
        yield error(
            "running-of-the-dead",
            f"{found.number} job(s) are RUNNING on workers that are dead, such as {found.example}",
            "The rescuer should have taken them back within seconds: it does not run",
            "Start a worker (one of them does maintenance); if some run, read their log for maintenance.waits",
        )


def crashes(context: Context) -> Iterable[Finding]:
    """Processes that died without having been asked to stop."""
    number = context.connection.execute(diagnosis.crashed_lately(), {"within_s": LATELY_S}).scalar_one()
    if number:
        yield warning(
            "workers-crashed",
            f"{number} worker process(es) crashed within the last hour",
            "Each crash costs the jobs that ran there an attempt, and three fail a job for good",
            "Look for worker.dead in the logs, for memory limits, and for jobs with crashes > 0",
        )


def relay(context: Context) -> Iterable[Finding]:
    """Due jobs are offered to Redis within a second, unless its list is full."""
    late = 0
    for row in context.connection.execute(diagnosis.undispatched(), {"waited_s": UNDISPATCHED_S}):
        waiting: Any = context.redis.llen(list_key(row.queue, row.band))
        if waiting < LIST_CAP:
            late += row.number
    if late:
        yield error(
            "undispatched",
            f"{_number(late)} job(s) have been due for more than {UNDISPATCHED_S:.0f} s and never offered to Redis",
            "The relay does not run, so retries and scheduled jobs never start",
            "Start a worker (one of them does maintenance); if some run, read their log for maintenance.waits",
        )


def schedules(context: Context) -> Iterable[Finding]:
    """Ticks are made within seconds of their minute."""
    late = list(context.connection.execute(stale_schedules()))
    if late:
        names = ", ".join(f"{row.name} ({row.tenant_id})" for row in late[:NAMED])
        yield error(
            "schedule-stale",
            f"{len(late)} schedule(s) are overdue: {names}",
            "Nobody makes their ticks: no process that declares them runs, or none can",
            "Start a worker or periodiq with the modules that declare them; read the log for ticker lines",
        )


def _roll_call(context: Context) -> list[Any]:
    lock_class = liveness.lock_class(context.settings.db_schema)
    return list(context.connection.execute(liveness.roll_call(), {"lock_class": lock_class}))


def _who(row: Any) -> str:
    return f"{row.kind} {row.id} (pid {row.pid} on {row.hostname})"


def _number(number: int) -> str:
    return f"at least {number}" if number >= diagnosis.COUNTED else str(number)
