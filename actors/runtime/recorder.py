"""The recorder: the middleware that turns Dramatiq's signals into ledger verbs. It stands first in the list.

Dramatiq swallows ordinary exceptions in hooks, and all of them in after hooks. So what must stop a message is a
SkipMessage, and what must be written is repeated here until it is written or the process is told to go.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from dramatiq import Actor, Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage
from sqlalchemy import exc

from actors.runtime.claiming import claim
from actors.runtime.consumer import Delivery
from actors.runtime.current import CurrentJob, running
from actors.runtime.finishing import finish
from actors.runtime.logs import get_logger
from actors.runtime.outcomes import decide, failure
from actors.runtime.passing import is_passing
from actors.runtime.stop_signals import StopSignals

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker
    from actors.runtime.liveness import Liveness
    from actors.runtime.maintenance import Maintenance

log = get_logger("recorder")

#: Seconds that a thread rests after a claim that failed for a reason nobody foresaw.
CLAIM_FAILED_S = 1.0
#: prctl(2): the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


class NotClaimed(SkipMessage):
    """This message is not for this worker to run: its job has ended, is not due, or is somebody else's."""


def actors_elsewhere(broker: Broker) -> list[str]:
    """The actors in loaded modules that were declared on a broker of another kind, as ``module:actor``."""
    found = set()
    for name, module in [(n, m) for n, m in sys.modules.items() if hasattr(m, "__dict__")]:
        for value in list(vars(module).values()):
            if isinstance(value, Actor) and not isinstance(value.broker, type(broker)):
                found.add(f"{name}:{value.actor_name}")
    return sorted(found)


class Recorder(Middleware):
    """Claims before the actor, finishes after everything else."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._maintenance: Maintenance | None = None

    # -- the process

    def after_process_boot(self, broker: Broker) -> None:
        """In the command line's worker process: import all of CALLBOARD_ACTORS, and do not outlive the master."""
        for module in self._broker.settings.actors:
            importlib.import_module(module)
        if not self._broker.quarantine:
            StopSignals(self._asked_to_stop).install()
        if sys.platform == "linux" and not self._broker.quarantine:
            # (A quarantine child is told by its standard input instead, and may end its job.)
            # An orphan can neither log nor be told to stop, and nobody would replace it.
            parent = os.getppid()
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    def _asked_to_stop(self) -> None:
        if self._broker.liveness is not None:
            self._broker.liveness.asked_to_stop()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Sign in. A database without our tables, or actors bound elsewhere, stop the worker here."""
        # Only a worker needs these; a sender's import stays small.
        from actors.runtime.liveness import Liveness
        from actors.runtime.maintenance import Maintenance

        ours = self._broker
        if strangers := actors_elsewhere(ours):
            raise MiddlewareError(
                f"these actors are bound to another broker and would never run here: {', '.join(strangers)}; "
                "import actors before the modules that declare them"
            )
        ours.stopping.clear()
        queues = worker.consumer_whitelist or ours.get_declared_queues()
        try:
            liveness = Liveness(
                ours,
                threads=worker.worker_threads,
                queues=sorted(queues),
                kind="quarantine" if ours.quarantine else "worker",
            )
            # Before any consumer fetches: what it fetches is noted under this name.
            ours.broker_id = str(liveness.worker_id)
            self._start(liveness)
        except Exception as error:
            raise MiddlewareError(f"the worker cannot start: {error}") from error
        ours.liveness = liveness
        if not ours.quarantine:
            self._maintenance = Maintenance(ours)
            self._maintenance.start()

    @staticmethod
    def _start(liveness: Liveness) -> None:
        try:
            liveness.start()
        except exc.DBAPIError as error:
            if not is_passing(error):
                raise
            # Postgres is away just now: the thread goes on trying, and nothing is claimed until it has signed in.
            log.warning("worker.waits", error=str(error.orig).splitlines()[0])
            liveness.start_later()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """No more claims; what is left behind from here on was released, not crashed."""
        self._broker.stopping.set()
        if self._broker.liveness is not None:
            self._broker.liveness.announce_stop()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Sign out."""
        if self._maintenance is not None:
            self._maintenance.stop()
            self._maintenance = None
        if self._broker.liveness is not None:
            self._broker.liveness.stop()
            self._broker.liveness = None
        self._broker.bell.flush()

    # -- the message

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Claim the job; without a claim the actor does not run.

        Raises:
          NotClaimed: the message is dropped (or, if nothing is known of it yet, goes back to Redis).
        """
        if not isinstance(message, Delivery):
            raise NotClaimed("the message did not come from Callboard's consumer")
        try:
            attempt = claim(self._broker, message)
        except Exception as error:
            message.unsettled = True
            log.exception("claim.failed", job_id=message.message_id)
            self._broker.stopping.wait(CLAIM_FAILED_S)  # it goes back to Redis, and must not spin
            raise NotClaimed(str(error)) from error
        if attempt is None:
            raise NotClaimed()
        message.attempt = attempt
        # One count, the row's: Retries and the ledger never disagree.
        message.options["retries"] = attempt.number - 1
        message.options["max_retries"] = attempt.options.pop("max_retries")
        running.set(CurrentJob(attempt, self._broker.write_report))

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Write how the attempt ended, whatever it takes; then Dramatiq acknowledges."""
        if isinstance(message, Delivery) and message.attempt is not None:
            self._end(message, lambda: decide(message.attempt, message, result, exception))

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """A later middleware skipped a job that was already claimed: settle it."""
        if not isinstance(message, Delivery) or message.attempt is None:
            return
        attempt = message.attempt
        attempt.finishing = True
        reason = message._exception
        if message.failed:
            self._end(message, lambda: failure(attempt, "fail", "failed", reason or "skipped by a middleware"))
        else:
            self._end(message, lambda: failure(attempt, "cancel", "failed", "skipped by a middleware"))

    def _end(self, message: Delivery, outcome: Any) -> None:
        attempt = message.attempt
        assert attempt is not None
        try:
            try:
                decided = outcome()
            except BaseException as error:
                log.exception("outcome.undecided", job_id=str(attempt.id))
                decided = failure(attempt, "fail", "failed", f"{type(error).__name__} while the attempt was ended")
            finish(self._broker, attempt, decided)
        finally:
            running.set(None)
            if self._broker.liveness is not None:
                self._broker.liveness.ended(attempt)
