"""What an attempt sends on when it ends, what a fenced one does not, and what extra middleware sees."""

from __future__ import annotations

from threading import Event
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq import group, pipeline
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Interrupt, Middleware, Pipelines
from dramatiq.results import Results

from actors.runtime import current_job
from actors.runtime.results import LedgerResults
from tests.integration import worker_support
from tests.integration.worker_support import COMPLETED, FAILED, PENDING, RUNNING, Gate, Stage, events
from tests.support import wait_for

stage = worker_support.stage


class Broken(Exception):
    """What the actors here raise."""


def the_only(stage: Stage, actor: str) -> dict[str, Any]:
    """The one job of an actor, once it has ended."""
    (row,) = wait_for(lambda: stage.jobs(actor), what=f"a job of {actor}")
    return stage.wait_until_ended(row["id"])


# -- pipelines, groups, callbacks


def test_a_pipeline_hands_results_on_in_the_parents_own_transaction(stage: Stage) -> None:
    stage.execute("INSERT INTO callboard.tenants (id) VALUES ('acme')")

    @stage.actor
    def first(x: int) -> int:
        return x + 1

    @stage.actor
    def second(x: int) -> int:
        return x * 10

    @stage.actor
    def third(x: int) -> list[Any]:
        return [x, current_job().tenant_id]

    stage.start()
    chain = pipeline([first.message_with_options(args=(1,), tenant_id="acme"), second.message(), third.message()])
    chain.run()
    assert chain.get_result(block=True) == [20, "acme"]
    parent, middle, last = (the_only(stage, name) for name in ("first", "second", "third"))
    assert [row["tenant_id"] for row in (parent, middle, last)] == ["acme"] * 3
    assert middle["created_at"] == parent["finished_at"]  # now() is the transaction's
    assert last["created_at"] == middle["finished_at"]


def test_a_pipelines_stage_waits_for_its_delay_in_the_ledger(stage: Stage) -> None:
    @stage.actor
    def first() -> None: ...

    @stage.actor
    def later(_: Any) -> None: ...

    stage.start()
    pipeline([first.message(), later.message_with_options(delay=50_000)]).run()
    the_only(stage, "first")
    (row,) = stage.jobs("later")
    assert (row["status"], (row["run_at"] - row["created_at"]).total_seconds()) == (PENDING, 50)


def test_a_failed_stage_ends_its_pipeline(stage: Stage) -> None:
    @stage.actor(max_retries=1)
    def first() -> None:
        raise Broken

    @stage.actor
    def second(_: Any) -> None: ...

    stage.start()
    chain = pipeline([first.message(), second.message()]).run()
    assert stage.run(chain.messages[0])["status"] == FAILED
    assert stage.jobs("second") == []


def test_a_retried_stage_sends_the_next_one_once(stage: Stage) -> None:
    @stage.actor(max_retries=2)
    def first() -> int:
        if current_job().attempt < 3:
            raise Broken
        return 7

    @stage.actor
    def second(x: int) -> int:
        return x

    stage.start()
    pipeline([first.message(), second.message()]).run()
    row = the_only(stage, "second")
    assert (row["result"], row["attempts"]) == (7, 1)


def test_a_groups_results_come_in_order(stage: Stage) -> None:
    @stage.actor
    def square(x: int) -> int:
        return x * x

    stage.start()
    squares = group([square.message(n) for n in range(20)]).run()
    assert list(squares.get_results(block=True)) == [n * n for n in range(20)]
    assert squares.completed


def test_on_success_gets_the_message_and_its_result(stage: Stage) -> None:
    @stage.actor
    def good() -> int:
        return 5

    @stage.actor
    def applaud(message: dict[str, Any], result: int) -> list[Any]:
        return [message["message_id"], result]

    stage.start()
    message = good.send_with_options(on_success="applaud")
    assert the_only(stage, "applaud")["result"] == [message.message_id, 5]


def test_on_failure_is_sent_for_every_failed_attempt(stage: Stage) -> None:
    @stage.actor(max_retries=1, on_failure="console")
    def bad() -> None:
        raise Broken("boo")

    @stage.actor
    def console(message: dict[str, Any], error: dict[str, str]) -> list[Any]:
        return [message["message_id"], error]

    stage.start()
    message = bad.send()
    stage.run(message)
    told = wait_for(lambda: len(rows := stage.jobs("console")) == 2 and rows)
    for row in told:
        assert stage.wait_until_ended(row["id"])["result"] == [
            message.message_id,
            {"type": "Broken", "message": "boo"},
        ]


def test_on_retry_exhausted_is_sent_once_in_the_failing_transaction(stage: Stage) -> None:
    @stage.actor(max_retries=2, on_retry_exhausted="bury")
    def bad() -> None:
        raise Broken

    @stage.actor
    def bury(message: dict[str, Any], counts: dict[str, Any]) -> list[Any]:
        return [message["message_id"], counts]

    stage.start()
    message = bad.send()
    row = the_only(stage, "bury")
    assert row["result"] == [message.message_id, {"retries": 2, "max_retries": 2}]
    assert row["created_at"] == stage.job(message)["finished_at"]


def test_a_child_that_cannot_be_kept_does_not_undo_its_parent(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    @stage.actor
    def parent() -> set[int]:
        return {1}

    @stage.actor
    def child(_: Any) -> None: ...

    stage.start()
    chain = pipeline([parent.message(), child.message()]).run()
    row = stage.run(chain.messages[0])
    assert row["status"] == COMPLETED
    assert row["result_error"]
    assert stage.jobs("child") == []
    assert wait_for(lambda: events(caplog, "child.refused"))


def test_what_an_actor_sends_itself_does_not_wait_for_its_end(stage: Stage) -> None:
    gate = Gate()

    @stage.actor
    def child() -> str:
        return current_job().tenant_id

    @stage.actor
    def parent() -> None:
        child.send()
        gate.wait()

    stage.execute("INSERT INTO callboard.tenants (id) VALUES ('acme')")
    stage.start()
    message = parent.send_with_options(tenant_id="acme")
    gate.meet()
    assert the_only(stage, "child")["result"] == "acme"
    assert stage.job(message)["status"] == RUNNING
    gate.opened.set()
    stage.run(message)


# -- the fence


@pytest.mark.parametrize(
    "takeover",
    [
        # Rescued, and somebody else is in its next attempt.
        "UPDATE callboard.jobs SET attempt_token = gen_random_uuid(), attempts = attempts + 1",
        # Rescued, and waiting for its next attempt far ahead.
        "UPDATE callboard.jobs SET status = 'PENDING', attempt_token = NULL, run_at = now() + interval '1 hour'",
        # Rescued, run elsewhere, and ended there.
        "UPDATE callboard.jobs SET status = 'COMPLETED', attempt_token = gen_random_uuid(), result = '\"theirs\"', "
        "finished_at = now()",
    ],
    ids=["taken", "waiting", "ended"],
)
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_a_fenced_attempt_changes_nothing_and_sends_nothing_on(
    stage: Stage, caplog: pytest.LogCaptureFixture, takeover: str, fails: bool
) -> None:
    gate = Gate()

    @stage.actor(max_retries=0, on_success="told", on_failure="told", on_retry_exhausted="told")
    def overtaken() -> str:
        gate.wait()
        if fails:
            raise Broken("mine")
        return "mine"

    @stage.actor
    def told(*_: Any) -> None: ...

    stage.start()
    chain = pipeline([overtaken.message(), told.message()]).run()
    message = chain.messages[0]
    gate.meet()
    assert stage.execute(f"{takeover} WHERE id = :id", id=message.message_id) == 1
    before = stage.job(message)
    gate.opened.set()
    (line,) = wait_for(lambda: events(caplog, "attempt.fenced"))
    assert message.message_id in line
    wait_for(lambda: not stage.redis.hlen("dramatiq:default.msgs"), what="the message to be acknowledged")
    after = stage.job(message)
    assert {**after, "offered_at": None, "dispatch": None} == {**before, "offered_at": None, "dispatch": None}
    assert stage.jobs("told") == []


def test_progress_of_a_fenced_attempt_is_not_written(stage: Stage) -> None:
    gate = Gate()
    done = Event()

    @stage.actor
    def overtaken() -> None:
        gate.wait()
        current_job().progress(1, 1)
        current_job().log("still here")
        done.set()

    stage.start()
    message = overtaken.send()
    gate.meet()
    stage.execute("UPDATE callboard.jobs SET attempt_token = :other", other=uuid4())
    gate.opened.set()
    assert done.wait(10)
    wait_for(lambda: not stage.redis.hlen("dramatiq:default.msgs"))
    row = stage.job(message)
    assert (row["status"], row["progress"], row["log"]) == (RUNNING, None, [])


def test_results_are_written_by_the_finish_alone(stage: Stage) -> None:
    """A redelivery that the claim refuses goes through Results' skip hook, which stores None in the stock stack."""

    @stage.actor(store_results=True)
    def once() -> str:
        return "kept"

    stage.start()
    message = once.send()
    stage.run(message)
    offer = stage.offer(message, 77)
    stage.push("default", offer.redis_id, offer.data)
    wait_for(lambda: not stage.redis.hexists("dramatiq:default.msgs", offer.redis_id))
    assert message.get_result() == "kept"


# -- extra middleware


class Witness(Middleware):
    """Writes down every signal about messages, in order."""

    NAMES = (
        "before_enqueue",
        "after_enqueue",
        "before_process_message",
        "after_process_message",
        "after_skip_message",
        "before_ack",
        "after_ack",
        "before_nack",
        "after_nack",
    )

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        for name in self.NAMES:
            setattr(self, name, self._note(name))

    def _note(self, name: str) -> Any:
        def hook(broker: dramatiq.Broker, message: Any, *args: Any, **kwargs: Any) -> None:
            self.seen.append((message.actor_name, name))

        return hook

    def of(self, actor: str) -> list[str]:
        """The signals of one actor's messages."""
        return [name for seen, name in self.seen if seen == actor]


def test_extra_middleware_sees_the_stock_signals_in_the_stock_order(stage: Stage) -> None:
    witness = Witness()
    stage.broker.add_middleware(witness)

    @stage.actor
    def show() -> None: ...

    stage.start()
    stage.run(show.send())
    wait_for(lambda: "after_ack" in witness.of("show"))
    assert witness.of("show") == [
        "before_enqueue",
        "after_enqueue",
        "before_process_message",
        "after_process_message",
        "before_ack",
        "after_ack",
    ]


def test_options_that_a_middleware_adds_before_enqueue_are_in_the_row_and_reach_the_actor(stage: Stage) -> None:
    class Tracing(Middleware):
        def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
            message.options.setdefault("trace", f"trace of {message.actor_name}")

    stage.broker.add_middleware(Tracing())

    @stage.actor
    def show() -> str:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        return message.options["trace"]

    stage.start()
    message = show.send()
    assert "trace" not in message.options or message.options["trace"] == "trace of show"
    row = stage.run(message)
    assert (row["result"], row["options"]["trace"]) == ("trace of show", "trace of show")


def test_what_hooks_send_on_passes_the_enqueue_signals_too(stage: Stage) -> None:
    class Tracing(Witness):
        def __init__(self) -> None:
            super().__init__()
            self.before_enqueue = self._add

        def _add(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
            self.seen.append((message.actor_name, "before_enqueue"))
            message.options["trace"] = message.actor_name

    witness = Tracing()
    stage.broker.add_middleware(witness)

    @stage.actor
    def first() -> None: ...

    @stage.actor
    def second(_: Any) -> None: ...

    stage.start()
    pipeline([first.message(), second.message()]).run()
    assert the_only(stage, "second")["options"].get("trace") == "second"
    assert witness.of("second")[:2] == ["before_enqueue", "after_enqueue"]


def test_hooks_that_are_interrupted_and_run_again_send_on_only_what_the_last_run_decided(stage: Stage) -> None:
    """A time limit that fires in the after hooks of a success makes Dramatiq run them again, as a failure."""

    class LateAlarm(Middleware):
        rung = False

        def after_process_message(
            self, broker: dramatiq.Broker, message: MessageProxy, *, result: Any = None, exception: Any = None
        ) -> None:
            if message.actor_name == "first" and not self.rung:
                self.rung = True
                raise Interrupt

    stage.broker.add_middleware(LateAlarm(), before=Pipelines)  # after hooks run backwards: just behind it

    @stage.actor(max_retries=3)
    def first() -> int:
        return current_job().attempt

    @stage.actor
    def second(attempt: int) -> int:
        return attempt

    stage.start()
    chain = pipeline([first.message(), second.message()]).run()
    parent = stage.run(chain.messages[0])
    child = the_only(stage, "second")
    # Either the first attempt counts, or the second does; never the one's result after the other's.
    assert child["result"] == parent["result"]
    assert child["created_at"] == parent["finished_at"]


def test_a_hook_that_breaks_changes_nothing_for_the_job(stage: Stage) -> None:
    class Clumsy(Middleware):
        def _trip(self, *args: Any, **kwargs: Any) -> None:
            raise Broken("in a hook")

        before_enqueue = after_enqueue = before_process_message = after_process_message = before_ack = _trip

    stage.broker.add_middleware(Clumsy())

    @stage.actor
    def sturdy() -> str:
        return "fine"

    stage.start()
    assert stage.run(sturdy.send())["result"] == "fine"


def test_the_results_middleware_is_the_stock_class(stage: Stage) -> None:
    """Dramatiq tests for the exact class and warns once per job otherwise."""
    (results,) = (m for m in stage.broker.middleware if isinstance(m, Results))
    assert type(results) is Results
    assert isinstance(stage.broker.get_results_backend(), LedgerResults)
