"""Maintenance: each duty is a ``run_once()``; this runs them in a worker process (DESIGN section 6).

One process holds the leader lease and does the duties; every process watches its own host for deaths, because a
witness who has to be elected first speaks too late.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import exc

from actors.runtime.logs import get_logger
from actors.runtime.pruner import Pruner
from actors.runtime.quarantine import Quarantine
from actors.runtime.relay import Relay
from actors.runtime.rescuer import Rescuer
from actors.runtime.strays import Strays
from models import liveness

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("maintenance")

LEASE = "maintenance"
#: Seconds that the lease outlives its last renewal; a holder that dies loses it at once.
LEASE_S = 10.0
#: Seconds between two looks at this host's marks.
WITNESS_S = 0.25
#: Seconds after which any process that knows a suspect's actor takes it into quarantine.
SUSPECT_WAITS_S = 0.7
#: Seconds after which the leader has a quarantine child ready: not while everything else is starting.
WARM_AFTER_S = 5.0
#: Part of an interval by which a duty may be early or late, so that processes do not march in step.
JITTER = 0.1


class Duty(NamedTuple):
    """Something done again and again."""

    name: str
    every_s: float
    run_once: Callable[[], object]
    leader_only: bool


class Maintenance:
    """One thread per process that does what is due."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._stop = Event()
        self._began = time.monotonic()
        self.quarantine = Quarantine(broker)
        rescuer = Rescuer(broker)
        relay_s = broker.resources.settings.relay_interval_ms / 1000
        self.duties: tuple[Duty, ...] = (
            Duty("witness", WITNESS_S, lambda: self._witness(rescuer), leader_only=False),
            # The witness starts the first attempt. Who saw the next death may not know the actor: then somebody who
            # does takes over, a moment later, so that not every process starts a child of its own.
            Duty("quarantine", 0.5, lambda: self.quarantine.run_once(SUSPECT_WAITS_S), leader_only=False),
            Duty("warm quarantine", 1.0, self._keep_warm, leader_only=True),
            Duty("rescuer", 1.0, rescuer.run_once, leader_only=True),
            Duty("pruner", 60.0, Pruner(broker).run_once, leader_only=True),
            Duty("strays", 30.0, Strays(broker).run_once, leader_only=True),
        )
        relay = (Duty("relay", relay_s, Relay(broker).run_once, leader_only=True),)
        ticker = (
            # Not the leader alone: it may not have the actors of every schedule.
            Duty("ticker", 1.0, broker.ticker.run_once, leader_only=False),
            Duty("stale schedules", 60.0, broker.ticker.report_stale, leader_only=True),
        )
        # The relay has a thread of its own: an outage of Redis must not delay the rescuer, nor the other way round. So
        # has the ticker, which may have many jobs to send.
        self._threads = [
            Thread(target=self._loop, args=(duties,), name=f"callboard-{duties[0].name}", daemon=True)
            for duties in (self.duties, relay, ticker)
        ]
        self.duties += relay + ticker

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the loops and the quarantine child, and let go of the lease."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)
        self.quarantine.stop()
        with contextlib.suppress(exc.SQLAlchemyError), self._broker.resources.engine.connect() as connection:
            connection.execute(liveness.drop_lease(), {"lease_name": LEASE, "worker": self._broker.worker_id})

    def _keep_warm(self) -> None:
        if time.monotonic() - self._began > WARM_AFTER_S:
            self.quarantine.run_once(keep=True)

    def _witness(self, rescuer: Rescuer) -> None:
        if rescuer.report_local_deaths():
            # The suspects' next attempt should not wait for the leader's round.
            self.quarantine.run_once()

    def is_leader(self) -> bool:
        """Take or renew the lease; whether this process holds it."""
        worker = self._broker.worker_id
        if worker is None:
            return False
        settings = self._broker.resources.settings
        with self._broker.resources.engine.connect() as connection:
            wish = {
                "lease_name": LEASE,
                "worker": worker,
                "lease_s": LEASE_S,
                "lock_class": liveness.lock_class(settings.db_schema),
            }
            if connection.execute(liveness.take_lease(), wish).one_or_none() is not None:
                return True
            connection.execute(liveness.found_lease(), {"lease_name": LEASE, "worker": worker})
            return False  # the next round takes what was just made

    def _loop(self, duties: tuple[Duty, ...]) -> None:
        due = {duty.name: 0.0 for duty in duties}
        leading_until = 0.0
        while not self._stop.wait(max(0.01, min(due.values()) - time.monotonic())):
            now = time.monotonic()
            ready = [duty for duty in duties if due[duty.name] <= now]
            for duty in ready:
                due[duty.name] = now + duty.every_s * random.uniform(1 - JITTER, 1 + JITTER)
            try:
                if any(duty.leader_only for duty in ready) and now >= leading_until:
                    leading_until = now + 1.0 if self.is_leader() else 0.0
            except Exception as error:  # noqa: BLE001 - whatever it is, the next round tries again
                self._failed("leader lease", error)
                leading_until = 0.0
            # One at a time: what fails must not keep the others from their work.
            for duty in ready:
                if not leading_until and duty.leader_only:
                    continue
                try:
                    duty.run_once()
                except Exception as error:  # noqa: BLE001
                    self._failed(duty.name, error)

    def _failed(self, duty: str, error: Exception) -> None:
        if isinstance(error, exc.DBAPIError):
            log.warning("maintenance.waits", duty=duty, error=str(error.orig).splitlines()[0])
        else:
            log.error("maintenance.failed", duty=duty, exc_info=error)
        self._stop.wait(0.5)
