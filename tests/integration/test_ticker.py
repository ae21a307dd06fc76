"""The ticker: each tick once, what is missed by policy, runs that overlap, and what becomes of schedules."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import dramatiq
import psycopg
import pytest
from sqlalchemy import select, text

from actors.runtime import job_type, ticking
from actors.runtime.cron import cron
from actors.runtime.errors import DataRefused, OptionRefused
from actors.runtime.ticker import Ticker
from actors.runtime.ticking import ScheduleRefused
from actors.sleeping import SleepPayload
from models import crons
from models import schedules as sql
from models.tables import jobs
from tests.integration import cron_support, ledger_support
from tests.integration.cron_support import MONDAY, Stand
from tests.support import wait_for

module_database = ledger_support.module_database
stand = cron_support.stand


@pytest.fixture
def database_url(module_database: str) -> str:
    """The module's database without a row."""
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute("TRUNCATE callboard.schedules, callboard.ticks, callboard.jobs")
        connection.execute("DELETE FROM callboard.tenants WHERE id <> 'default'")
    return module_database


def warnings(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [message for record in caplog.records if f"event='{event}'" in (message := record.getMessage())]


# -- each tick once


def test_a_schedule_begins_with_its_declaration(stand: Stand) -> None:
    stand.actor(cron("*/15 * * * *"))
    assert stand.at(minutes=1) == 0
    row = stand.schedule()
    assert (row["last_tick_at"], row["next_tick_at"]) == (stand.clock.now, MONDAY + timedelta(minutes=15))
    assert stand.at(minutes=14, seconds=59) == 0
    assert stand.at(minutes=15) == 1
    assert stand.at(minutes=15, seconds=1) == 0
    assert stand.at(minutes=30) == 1
    assert stand.sent() == ["00:15", "00:30"]


def test_a_tick_is_an_ordinary_job_of_its_tenant(stand: Stand) -> None:
    stand.tenant("acme")
    stand.actor(
        cron("0 * * * *", args=[1], kwargs={"a": "é"}, tenant="acme", priority=-5, max_attempts=2, time_limit=1000)
    )
    stand.at()
    assert stand.at(hours=1) == 1
    (row,) = stand.rows()
    assert (row["tenant_id"], row["args"], row["kwargs"]) == ("acme", [1], {"a": "é"})
    assert (row["priority"], row["max_attempts"], row["status"]) == (-5, 2, "PENDING")
    assert row["options"] == {"time_limit": 1000, "tick": {"schedule": "act", "at": "2030-01-07T01:00:00+00:00"}}
    assert row["dispatch"] == 1, "the bell rang"
    wait_for(lambda: stand.broker.client.llen("dramatiq:default:urgent") == 1, what="the push, off the ticker's path")


def test_several_schedules_of_one_actor_and_of_two_tenants(stand: Stand) -> None:
    stand.tenant("acme")
    stand.actor(
        cron("0 * * * *", kwargs={"n": 1}),
        cron("30 * * * *", kwargs={"n": 2}, name="half"),
        cron("0 * * * *", kwargs={"n": 3}, tenant="acme"),
    )
    stand.at()
    assert stand.at(minutes=30) == 1
    assert stand.at(hours=1) == 2
    assert sorted((row["tenant_id"], row["kwargs"]["n"]) for row in stand.rows()) == [
        ("acme", 3), ("default", 1), ("default", 2)
    ]  # fmt: skip


def test_tickers_at_the_same_moment_make_each_tick_once(stand: Stand) -> None:
    stand.actor(cron("* * * * *"))
    stand.at()
    tickers = [Ticker(stand.broker, stand.clock) for _ in range(4)]
    for ticker in tickers:
        ticker.run_once()
    for minute in range(1, 16):
        stand.clock.now = MONDAY + timedelta(minutes=minute)
        start, made = Barrier(len(tickers)), []

        def run(ticker: Ticker, start: Barrier = start, made: list[int] = made) -> None:
            start.wait()
            made.append(ticker.run_once())

        threads = [Thread(target=run, args=(ticker,)) for ticker in tickers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(made) == 1
    assert len(stand.sent()) == len(stand.rows()) == 15


def test_a_tick_that_is_recorded_is_not_made_again(stand: Stand) -> None:
    """The second wall, behind ``last_tick_at``: moved back, a schedule makes nothing twice."""
    stand.actor(cron("* * * * *", missed="all"))
    stand.at()
    stand.at(minutes=3)
    stand.execute(text("UPDATE callboard.schedules SET last_tick_at = :was, next_tick_at = :was"), {"was": MONDAY})
    assert stand.at(minutes=4) == 1
    assert stand.sent() == ["00:01", "00:02", "00:03", "00:04"]


def test_a_tick_that_cannot_commit_leaves_nothing_and_is_made_later(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand.actor(cron("* * * * *"))
    stand.at()
    with monkeypatch.context() as broken:
        broken.setattr(ticking.sql, "advance", lambda: text("SELECT 1/0"))
        with pytest.raises(Exception, match="division by zero"):
            stand.at(minutes=1)
    assert (stand.rows(), stand.ticks()) == ([], [])
    assert len(warnings(caplog, "schedule.failed")) == 1
    assert stand.at(minutes=1, seconds=30) == 1
    assert stand.sent() == ["00:01"]


def test_one_broken_schedule_does_not_keep_the_others(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.actor(cron("* * * * *"), cron("* * * * *", name="other"))
    stand.at()
    stand.execute(text("UPDATE callboard.schedules SET tz = 'Mars/Base' WHERE name = 'act'"))
    assert stand.at(minutes=1) == 1
    assert stand.at(minutes=2) == 1
    assert stand.sent("other") == ["00:01", "00:02"]
    assert len(warnings(caplog, "schedule.failed")) == 1, "said once, not every second"


# -- missed ticks: 6 hours in which nothing ran


@pytest.mark.parametrize(
    ("policy", "made"),
    [
        ({"missed": "skip"}, []),
        ({"missed": "once"}, ["06:00"]),
        ({}, ["06:00"]),
        ({"missed": "all"}, ["01:00", "02:00", "03:00", "04:00", "05:00", "06:00"]),
        ({"missed": "all", "at_most": 2}, ["05:00", "06:00"]),
    ],
    ids=["skip", "once", "default", "all", "all up to 2"],
)
def test_after_an_outage_of_six_hours(
    stand: Stand, caplog: pytest.LogCaptureFixture, policy: dict[str, Any], made: list[str]
) -> None:
    stand.actor(cron("0 * * * *", **policy))
    stand.at(minutes=10)
    stand.restart()
    assert stand.at(hours=6, minutes=10) == len(made)
    assert stand.sent() == made
    print(f"6 hours down, hourly, {policy or 'default'}: {made}")
    skipped = [tick for tick in stand.ticks() if tick["outcome"] == "skipped"]
    assert len(skipped) == len(warnings(caplog, "schedule.missed")) == (len(made) < 6)
    assert all(tick["reason"].startswith("missed, as all since 2030-01-07 01:00 UTC") for tick in skipped)
    # And it goes on as if nothing had been.
    assert stand.at(hours=7) == 1
    assert stand.sent() == [*made, "07:00"]


@pytest.mark.parametrize("policy", ["skip", "once", "all"])
def test_a_tick_is_on_time_for_a_minute(stand: Stand, policy: str) -> None:
    """A restart within the minute is no outage, whatever the policy."""
    stand.actor(cron("0 * * * *", missed=policy))
    stand.at(minutes=59, seconds=58)
    stand.restart()
    assert stand.at(hours=1, seconds=59) == 1
    assert stand.sent() == ["01:00"]


def test_a_year_of_minutes_is_made_up_for_in_a_moment(stand: Stand) -> None:
    stand.actor(cron("* * * * *", missed="all", at_most=3))
    stand.at()
    assert stand.at(days=365) == 3
    assert stand.sent() == ["23:58", "23:59", "00:00"]


# -- overlap


def test_overlap_skip(stand: Stand) -> None:
    stand.actor(cron("* * * * *", overlap="skip"))
    stand.at()
    assert [stand.at(minutes=1), stand.at(minutes=2), stand.at(minutes=3)] == [1, 0, 0]
    stand.finish()
    assert stand.at(minutes=4) == 1
    assert stand.outcomes() == [("00:01", "sent"), ("00:02", "skipped"), ("00:03", "skipped"), ("00:04", "sent")]
    assert stand.ticks()[1]["reason"] == "the run before had not ended"


def test_overlap_queue_lets_one_wait_and_no_two_run(stand: Stand) -> None:
    stand.actor(cron("* * * * *", overlap="queue"))
    stand.at()
    assert [stand.at(minutes=n) for n in range(1, 5)] == [1, 0, 0, 0]
    assert [outcome for _, outcome in stand.outcomes()] == ["sent", "waiting", "skipped", "skipped"]
    stand.finish()
    assert stand.at(minutes=4, seconds=20) == 1, "it does not wait for the next tick"
    assert [outcome for _, outcome in stand.outcomes()] == ["sent", "sent", "skipped", "skipped"]
    assert stand.at(minutes=4, seconds=30) == 0
    assert len([row for row in stand.rows() if row["status"] == "PENDING"]) == 1


def test_overlap_allow(stand: Stand) -> None:
    stand.actor(cron("* * * * *"))
    stand.at()
    assert [stand.at(minutes=1), stand.at(minutes=2)] == [1, 1]


def test_overlap_applies_to_what_is_made_up_for(stand: Stand) -> None:
    stand.actor(cron("0 * * * *", overlap="queue", missed="all"))
    stand.at()
    assert stand.at(hours=6) == 1
    assert [outcome for _, outcome in stand.outcomes()] == ["sent", "waiting", *["skipped"] * 4]


def test_a_live_run_is_live_however_many_ticks_ago_it_was_sent(stand: Stand) -> None:
    stand.actor(cron("* * * * *", overlap="skip", missed="all", at_most=1000))
    stand.at()
    stand.at(minutes=1)
    stand.at(minutes=400)
    stand.ticker.report_stale()  # forgets old ticks
    assert len(stand.ticks()) == sql.KEPT_TICKS + 1
    assert stand.at(minutes=401) == 0


# -- what is refused


def test_a_taken_unique_key_is_told_in_the_tick(stand: Stand) -> None:
    act = stand.actor(cron("* * * * *", unique_key="one"))
    holder = act.send_with_options(unique_key="one")
    stand.at()
    assert stand.at(minutes=1) == 0
    (tick,) = stand.ticks()
    assert (tick["outcome"], tick["reason"]) == ("skipped", f"job {holder.message_id} held the unique key")
    assert len(stand.rows()) == 1


def test_arguments_that_a_job_type_refuses_are_told_in_the_tick(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    @job_type(SleepPayload)
    @dramatiq.actor(broker=stand.broker, actor_name="act", periodic=cron("* * * * *"))
    def act(delay_ms: int) -> None: ...

    stand.at()
    assert stand.at(minutes=1) == 0
    (tick,) = stand.ticks()
    assert tick["outcome"] == "refused"
    assert "/delay_ms: Field required" in tick["reason"]
    assert len(warnings(caplog, "schedule.refused")) == 1
    assert stand.rows() == []


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"kwargs": {"a": {1, 2}}}, DataRefused),
        ({"priority": 11}, OptionRefused),
        ({"max_retries": "many"}, OptionRefused),
        ({"run_at": MONDAY}, OptionRefused),
        ({"tenant_id": "acme"}, OptionRefused),
        ({"missed": "never"}, ValueError),
        ({"overlap": "maybe"}, ValueError),
        ({"at_most": 0}, ValueError),
        ({"name": "a/b"}, ValueError),
    ],
    ids=str,
)
def test_a_schedule_that_could_never_send_fails_where_it_is_written(
    how: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        cron("* * * * *", **how)


def test_two_schedules_of_one_name_fail_where_the_second_is_written(stand: Stand) -> None:
    stand.actor(cron("* * * * *"))
    with pytest.raises(ValueError, match="two schedules of tenant 'default' are called 'act'"):
        stand.actor(cron("* * * * *", name="act"), name="other")
    stand.actor(cron("* * * * *", name="act", tenant="acme"), name="other")
    with pytest.raises(ValueError, match="needs a name"):
        stand.actor(cron("* * * * *"), name="a b")


# -- declaring again, otherwise, and no more


def test_a_restart_keeps_what_is_due(stand: Stand) -> None:
    stand.actor(cron("0 * * * *", kwargs={"n": 1}))
    stand.at()
    stand.actor(cron("0 * * * *", kwargs={"n": 2}, missed="all"))
    stand.restart()
    assert stand.at(hours=2) == 2, "the same schedule, with other arguments"
    assert {row["kwargs"]["n"] for row in stand.rows()} == {2}


@pytest.mark.parametrize("change", [{"expression": "*/5 * * * *"}, {"tz": "Asia/Kathmandu"}], ids=str)
def test_another_expression_or_zone_begins_with_its_declaration(stand: Stand, change: dict[str, str]) -> None:
    stand.actor(cron("0 * * * *"))
    stand.at()
    stand.actor(cron(**{"expression": "0 * * * *", **change}))
    stand.restart()
    assert stand.at(hours=2, minutes=1) == 0, "nothing of the new schedule was missed"
    assert stand.schedule()["last_tick_at"] == stand.clock.now


def test_what_is_no_longer_declared_is_retired_and_may_come_back(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    stand.actor(cron("* * * * *"), cron("* * * * *", name="other"))
    stand.at()
    stand.actor(cron("* * * * *"))
    stand.restart()
    assert stand.at(minutes=1) == 1
    assert stand.schedule("other")["retired_at"] is not None
    assert len(warnings(caplog, "schedule.retired")) == 1
    stand.actor(cron("* * * * *"), cron("* * * * *", name="other"))
    stand.restart()
    assert stand.at(minutes=5) == 1, "what it missed while it was retired is not made up for"
    assert stand.at(minutes=6) == 2
    assert stand.schedule("other")["retired_at"] is None


def test_an_actor_that_is_gone_from_its_module_takes_its_schedule_along(stand: Stand) -> None:
    stand.actor(cron("* * * * *"))
    stand.at()
    del stand.broker.actors["act"]
    stand.restart()
    stand.at(minutes=1)
    assert stand.schedule()["retired_at"] is not None


def test_schedules_of_code_that_this_process_does_not_have_are_left_alone(stand: Stand) -> None:
    stand.actor(cron("* * * * *"))
    stand.at()
    stand.execute(text("UPDATE callboard.schedules SET module = 'elsewhere'"))
    del stand.broker.actors["act"]
    stand.restart()
    assert stand.at(minutes=1) == 0
    assert stand.schedule()["retired_at"] is None


def test_a_schedule_of_a_tenant_that_comes_later(
    stand: Stand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.runtime.ticker.REDECLARE_S", 0.0)
    stand.actor(cron("* * * * *", tenant="acme"), cron("* * * * *"))
    stand.at()
    assert stand.at(minutes=1) == 1, "the others do not wait for it"
    assert warnings(caplog, "schedule.unknown_tenant")
    stand.tenant("acme")
    stand.at(minutes=1, seconds=30)
    assert stand.at(minutes=2) == 2


# -- by hand


def test_pause_and_resume(stand: Stand) -> None:
    stand.actor(cron("* * * * *", missed="all"))
    stand.at()
    stand.execute(crons.pause(), {"tenant": "default", "schedule_name": "act"})
    assert stand.at(minutes=3) == 0
    now = MONDAY + timedelta(minutes=3)
    values = {"tenant": "default", "schedule_name": "act", "last": now, "upcoming": now + timedelta(minutes=1)}
    assert len(stand.execute(crons.resume(), values)) == 1
    assert stand.at(minutes=3, seconds=30) == 0, "what came due in the pause is not made up for"
    assert stand.at(minutes=4) == 1
    assert stand.execute(crons.resume(), values) == []


def test_pause_holds_back_what_waits(stand: Stand) -> None:
    stand.actor(cron("* * * * *", overlap="queue"))
    stand.at()
    stand.at(minutes=1)
    stand.at(minutes=2)
    stand.execute(crons.pause(), {"tenant": "default", "schedule_name": "act"})
    stand.finish()
    assert stand.at(minutes=3) == 0


def test_run_now(stand: Stand) -> None:
    stand.actor(cron("0 * * * *", kwargs={"n": 1}))
    stand.at(minutes=5)
    message = stand.ticker.run_now("default", "act")
    (row,) = stand.rows()
    assert (str(row["id"]), row["kwargs"]) == (message.message_id, {"n": 1})
    (tick,) = stand.ticks()
    assert (tick["tick_at"], tick["outcome"], tick["by_hand"]) == (stand.clock.now, "sent", True)
    assert stand.at(hours=1) == 1, "the schedule goes on as it would have"
    with pytest.raises(LookupError):
        stand.ticker.run_now("acme", "act")


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_run_now_keeps_the_overlap_policy(stand: Stand, overlap: str) -> None:
    stand.actor(cron("0 * * * *", overlap=overlap))
    stand.at()
    stand.ticker.run_now("default", "act")
    with pytest.raises(ScheduleRefused, match="live"):
        stand.ticker.run_now("default", "act")
    assert len(stand.rows()) == len(stand.ticks()) == 1
    assert stand.at(hours=1) == 0, "and a tick heeds what runs by hand"


def test_run_now_of_what_is_retired(stand: Stand) -> None:
    stand.actor(cron("0 * * * *"), cron("0 * * * *", name="other"))
    stand.at()
    stand.actor(cron("0 * * * *"))
    stand.restart()
    stand.at(minutes=1)
    with pytest.raises(ScheduleRefused, match="retired"):
        stand.ticker.run_now("default", "other")


# -- stale


def test_a_schedule_that_nobody_ticks_is_stale(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.actor(cron("* * * * *"))
    stand.clock.now = datetime.now(UTC) - timedelta(minutes=1)
    stand.ticker.run_once()
    assert stand.execute(sql.stale_schedules()) == []
    stand.execute(text("UPDATE callboard.schedules SET next_tick_at = now() - interval '3 minutes'"))
    (stale,) = stand.execute(sql.stale_schedules())
    assert (stale["tenant_id"], stale["name"], stale["actor"]) == ("default", "act", "act")
    with caplog.at_level(logging.WARNING):
        stand.ticker.report_stale()
        stand.ticker.report_stale()
    assert len(warnings(caplog, "schedule.stale")) == 1
    stand.execute(crons.pause(), {"tenant": "default", "schedule_name": "act"})
    assert stand.execute(sql.stale_schedules()) == []


# -- what periodiq does


def test_periodiqs_send_makes_the_tick_and_nothing_else(stand: Stand) -> None:
    act = stand.actor(cron("* * * * *"))
    stand.at()
    stand.clock.now = MONDAY + timedelta(minutes=1, seconds=1)
    for _ in range(2):  # a restart within the minute
        act.send_with_options(scheduled_at="2030-01-07T01:01:00+01:00")
    assert stand.sent() == ["00:01"]
    assert len(stand.execute(select(jobs))) == 1


def test_a_scheduler_whose_clock_is_a_little_ahead_makes_its_tick(stand: Stand) -> None:
    act = stand.actor(cron("* * * * *"))
    stand.at()
    stand.clock.now = MONDAY + timedelta(seconds=57)
    act.send_with_options(scheduled_at="2030-01-07T00:01:00+00:00")
    assert stand.sent() == ["00:01"]
    act.send_with_options(scheduled_at="2030-01-07T09:00:00+00:00")
    assert stand.sent() == ["00:01"], "but not one that is hours ahead"


def test_periodiq_asks_at_its_start_for_what_was_missed(stand: Stand) -> None:
    alarm = stand.actor(cron("0 3 * * *"), cron("0 5 * * *", name="later")).options["periodic"]
    noon = MONDAY + timedelta(hours=12)
    assert alarm.validate(noon)
    assert not alarm.validate(noon)
    assert alarm.validate(MONDAY + timedelta(hours=5))
    assert alarm.next_valid_date(MONDAY) == MONDAY + timedelta(hours=3)
    assert str(alarm) == "0 3 * * *; 0 5 * * *"


def test_a_process_with_old_code_that_is_restarted_does_not_have_the_last_word(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.runtime.ticker.REDECLARE_S", 0.0)
    stand.actor(cron("* * * * *", name="a"), cron("* * * * *", name="b"))
    new, actor = stand.ticker, stand.broker.actors["act"]
    stand.at(seconds=1)
    stand.actor(cron("* * * * *", name="a"))
    stand.restart()
    stand.at(seconds=2)
    assert stand.schedule("b")["retired_at"]
    stand.ticker, stand.broker.actors["act"] = new, actor
    stand.at(seconds=3)
    assert stand.at(minutes=1) == 2


def test_a_wakened_ticker_does_not_rely_on_another_that_dies_in_mid_tick(stand: Stand) -> None:
    stand.actor(cron("0 * * * *", missed="skip"))
    stand.at()
    stand.clock.now = MONDAY + timedelta(hours=1)
    with stand.transaction() as other:
        other.execute(sql.lock(wait=False), {"tenant": "default", "schedule_name": "act"}).all()
        woken = Thread(target=stand.ticker.wake, args=(stand.clock.now.isoformat(),))
        woken.start()
        woken.join(0.5)
        other.rollback()
    woken.join(20)
    assert stand.sent() == ["01:00"]
