"""The job state machine, as data: one table, drawn in ``docs/explanation/states.md``, compared by a test."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """What a job row says of its job."""

    PENDING = "PENDING"  # waits: for its turn, for ``run_at``, or for its next attempt
    RUNNING = "RUNNING"  # one worker holds the lease (``attempt_token``)
    COMPLETED = "COMPLETED"  # terminal: the actor returned
    FAILED = "FAILED"  # terminal: no attempt left, or no sense in another
    CANCELLED = "CANCELLED"  # terminal: somebody asked for it


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
LIVE = frozenset({Status.PENDING, Status.RUNNING})


class Transition(NamedTuple):
    """One legal change of status, made by one ledger verb."""

    verb: str
    before: Status | None
    after: Status
    when: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition("enqueue", None, Status.PENDING, "send or POST"),
    Transition("bring_in", None, Status.PENDING, "from another system: what was to run there"),
    Transition("bring_in", None, Status.COMPLETED, "from another system: its past"),
    Transition("bring_in", None, Status.FAILED, "from another system: its past, or what cannot run here"),
    Transition("claim", Status.PENDING, Status.RUNNING, "a worker thread takes it"),
    Transition("complete", Status.RUNNING, Status.COMPLETED, "the actor returned"),
    Transition("fail_attempt", Status.RUNNING, Status.PENDING, "error, attempts left"),
    Transition("fail_attempt", Status.RUNNING, Status.FAILED, "last attempt or permanent error"),
    Transition("fail_attempt", Status.RUNNING, Status.CANCELLED, "cancel was requested"),
    Transition("give_back", Status.RUNNING, Status.PENDING, "shutdown, rate limit or snooze: the attempt is returned"),
    Transition("give_back", Status.RUNNING, Status.CANCELLED, "cancel was requested"),
    Transition("rescue", Status.RUNNING, Status.PENDING, "worker lost or crashed"),
    Transition("rescue", Status.RUNNING, Status.FAILED, "crash cap, or no attempt left"),
    Transition("rescue", Status.RUNNING, Status.CANCELLED, "cancel was requested"),
    Transition("cancel", Status.PENDING, Status.CANCELLED, "cancelled before it started"),
    Transition("replay", Status.FAILED, Status.PENDING, "retry by hand"),
    Transition("replay", Status.CANCELLED, Status.PENDING, "retry by hand"),
)


def sources(verb: str) -> frozenset[Status]:
    """The statuses from which ``verb`` may move a job."""
    return frozenset(t.before for t in TRANSITIONS if t.verb == verb and t.before is not None)


def targets(verb: str) -> frozenset[Status]:
    """The statuses to which ``verb`` may move a job."""
    return frozenset(t.after for t in TRANSITIONS if t.verb == verb)
