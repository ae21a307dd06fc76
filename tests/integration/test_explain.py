"""What runs often looks at an index, never at the whole table: with history, with a backlog, and with no statistics.

Both kinds of plan count: our connections prepare every statement, and after five executions Postgres may choose a
plan that knows no parameter.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from actors.runtime.broker import _LIVE_IN_QUEUE
from actors.runtime.quarantine import DUE_SUSPECT
from models import ledger, liveness, offers, queries, queue_counts, retention, rls
from models.arrays import parameters
from models.board import board_page
from models.engine import psycopg_dialect
from models.newest import Place, Wanted
from models.state import Status
from tests.conftest import new_database

#: id, tenant, queue, priority, status, run_at, offered_at, suspect, worker, deadline, slot, finished_at
ROWS = """
INSERT INTO callboard.jobs (id, tenant_id, actor, queue, priority, args, kwargs, options, message_timestamp, status,
                            attempts, max_attempts, run_at, dispatch, offered_at, suspect, worker_id, attempt_token,
                            deadline_at, unique_key, unique_slot, unique_scope, unique_until, finished_at, result)
SELECT ('0198' || lpad(to_hex(%(base)s + n), 8, '0') || substr(md5(n::text || %(base)s), 1, 20))::uuid,
       CASE n %% 50 WHEN 7 THEN 'tenant1' WHEN 8 THEN 'tenant2' ELSE 'main' END,
       'actor' || n %% 11, 'queue' || n %% 5, n %% 3 - 1, '[]', '{}', '{}', 0, %(status)s, 1, 3,
       now() - n * interval '1 s', %(offered)s::int, CASE WHEN %(offered)s THEN now() - n * interval '1 s' END,
       n %% 50 = 0 AND %(status)s = 'PENDING',
       CASE WHEN %(running)s THEN md5('worker' || n %% 10)::uuid END,
       CASE WHEN %(running)s THEN gen_random_uuid() END,
       CASE WHEN %(running)s THEN now() + interval '1 h' END,
       CASE WHEN n %% 4 = 0 THEN 'key' || n END,
       CASE WHEN n %% 4 = 0 AND %(live)s THEN 'key' || n || %(base)s END,
       CASE WHEN n %% 4 = 0 THEN 'live' END, NULL,
       CASE WHEN NOT %(live)s THEN now() - n * interval '1 m' END, '{"a": 1}'
FROM generate_series(1, %(number)s) AS n
"""
WORKERS = """
INSERT INTO callboard.workers (id, host_id, hostname, pid, threads, queues, version, dead_at)
SELECT md5('worker' || n)::uuid, 'h', 'h', n, 8, '{default}', '0', CASE WHEN n > 7 THEN now() END
FROM generate_series(0, 9) AS n
"""
#: How many rows of (status, offered) each table has: large enough for an index to pay, small enough for a test.
TABLES: dict[str, dict[tuple[str, bool], int]] = {
    "history": {
        ("COMPLETED", True): 18_000,
        ("FAILED", True): 1800,
        ("CANCELLED", True): 200,
        ("RUNNING", True): 80,
        ("PENDING", True): 150,
        ("PENDING", False): 150,
    },
    "backlog": {
        ("COMPLETED", True): 200,
        ("FAILED", True): 20,
        ("RUNNING", True): 80,
        ("PENDING", True): 10_000,
        ("PENDING", False): 10_000,
    },
}


@pytest.fixture(scope="module", params=["history", "backlog", "history, never analysed"])
def filled(
    request: pytest.FixtureRequest, postgres_url: str, database_owner: tuple[str, str], template_database: str
) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database whose tables are filled in one way or another."""
    kind: str = request.param
    with (
        new_database(postgres_url, database_owner, template_database) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.execute("ALTER TABLE callboard.jobs SET (autovacuum_enabled = false)")
        for base, ((status, offered), number) in enumerate(TABLES[kind.partition(",")[0]].items()):
            live = status in ("PENDING", "RUNNING")
            values = {"status": status, "offered": offered, "number": number, "base": base * 100_000}
            connection.execute(ROWS, {**values, "running": status == "RUNNING", "live": live})
        connection.execute(WORKERS)
        if "never" not in kind:
            connection.execute("ANALYZE callboard.jobs, callboard.workers")
        yield connection


#: Types of parameters that Postgres does not infer where our driver says them.
TYPES = {timedelta: "interval", datetime: "timestamptz", UUID: "uuid"}


def explain(connection: psycopg.Connection[Any], statement: Any, values: dict[str, Any], mode: str) -> Any:
    """The plan of a statement as the server would run it, prepared."""
    expanded = statement.compile(dialect=psycopg_dialect()).construct_expanded_state(values)
    used: dict[str, str] = {}

    class Numbered(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return used.setdefault(name, f"${len(used) + 1}")

    name = f"s{secrets.token_hex(8)}"
    body = expanded.statement % Numbered()
    given = [expanded.parameters[key] for key in used]
    connection.execute(f"SET plan_cache_mode = {mode}")
    types = ", ".join(TYPES.get(type(value), "unknown") for value in given)
    connection.execute(f"PREPARE {name} {f'({types})' if types else ''} AS {body}")
    arguments = sql.SQL(", ").join(map(sql.Literal, given))
    call = sql.SQL("({})").format(arguments) if used else sql.SQL("")
    query = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}{}").format(sql.Identifier(name), call)
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from nodes(part)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan
        for part in plan.values():
            if isinstance(part, (dict, list)):
                yield from nodes(part)


def outline(plan: Any) -> str:
    """The plan in few lines, for a failure's text."""
    wanted = ("Node Type", "Index Name", "Index Cond", "Filter", "Plan Rows")
    return "\n".join(", ".join(f"{key}: {node[key]}" for key in wanted if key in node) for node in nodes(plan))


JOB, TOKEN, WORKER = uuid4(), uuid4(), uuid4()
#: Fewer than a pass asks for, as the tables are smaller than they may get.
IN_LIST = {"in_queue": "queue1", "in_band": 0, "room": 50}
MINE = {"tenant": "tenant1"}
ONE = {"job_id": JOB, "tenant": "tenant1"}
SINCE = datetime.now(UTC) - timedelta(seconds=5)
FEW = [uuid4() for _ in range(8)]

BY_ID = {"pk_jobs", "ix_jobs_live"}
BY_TENANT = {"ix_jobs_groups", "ix_jobs_live"}
#: What workers and maintenance run all the time: name → statement, parameters, indexes of which one must be used.
HOT: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "offer_due": (offers.offer_due(), IN_LIST, {"ix_jobs_undispatched"}),
    "offer_again": (offers.offer_again(), {**IN_LIST, "silence_s": 2.0, "before": SINCE}, {"ix_jobs_offered"}),
    "offer_again, empty list": (
        offers.offer_again(), {**IN_LIST, "silence_s": 0.0, "before": None}, {"ix_jobs_offered"}
    ),
    "waiting_lists, never offered": (offers.waiting_lists(offered=False), {}, {"ix_jobs_undispatched"}),
    "waiting_lists, offered": (offers.waiting_lists(offered=True), {}, {"ix_jobs_offered"}),
    "withdraw_offers": (offers.withdraw_offers(), {"ids": [str(i) for i in FEW]}, BY_ID),
    "rescue": (ledger.rescue(), {"crashed": [str(TOKEN)], "unstarted": []}, {"ix_jobs_running"}),
    "rescue, overdue": (ledger.rescue(overdue=True), {"crashed": [], "unstarted": []}, {"ix_jobs_running"}),
    "running_of": (liveness.running_of(), {"worker": WORKER}, {"ix_jobs_running"}),
    "forget_workers": (liveness.forget_workers(), {}, {"ix_jobs_running"}),
    "due suspect": (DUE_SUSPECT, {"actors": ["actor1"], "waited_s": 0}, {"ix_jobs_suspect"}),
    "claim": (
        ledger.claim(),
        {**parameters("want", id=FEW, token=FEW, limit_ms=[1.0] * 8), "worker": WORKER, "quarantine": False},
        {"pk_jobs"},
    ),
    "complete": (
        ledger.complete(),
        parameters("done", id=FEW, token=FEW, result=["1"] * 8, result_error=[None] * 8, progress=[None] * 8),
        {"pk_jobs"},
    ),
    "fail_attempt": (
        ledger.fail_attempt(),
        parameters("end", id=FEW, token=FEW, outcome=["retry"] * 8, delay_ms=[0] * 8, error=["x"] * 8,
                   entry=["{}"] * 8, progress=[None] * 8),
        {"pk_jobs"},
    ),
    "give_back": (
        ledger.give_back(), parameters("back", id=FEW, token=FEW, delay_ms=[0] * 8, entry=[None] * 8), {"pk_jobs"}
    ),
    "report_progress": (
        ledger.report_progress(), {"job_id": JOB, "token": TOKEN, "new_progress": "{}", "new_lines": None}, BY_ID
    ),
    "cancel": (ledger.cancel(), ONE, BY_ID),
    "replay": (ledger.replay(), ONE, BY_ID),
    "free_expired_slots": (
        ledger.free_expired_slots(), parameters("slot", tenant_id=["tenant1"], key=["key4"]), {"uq_jobs_unique_slot"}
    ),
    "one_job": (queries.one_job(), ONE, BY_ID),
    "one_event": (queries.one_event(), ONE, BY_ID),
    "newer_versions": (
        queries.newer_versions(), parameters("shown", id=FEW, tenant=["tenant1"] * 8, version=[1] * 8), BY_ID
    ),
}  # fmt: skip
#: What runs now and then; people look at lists here as one of the small tenants beside a large one.
SELDOM: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "counts": (queries.counts(), MINE, BY_TENANT),
    "queue counts": (queue_counts.of_tenant(), MINE, {"ix_jobs_groups"}),
    "snapshot": (queries.snapshot(), {**MINE, "types": None}, BY_TENANT),
    "finished_lately": (queries.finished_lately(), {**MINE, "room": 50}, BY_TENANT),
    "finished_since": (queries.finished_since(), {**MINE, "since": SINCE}, {"ix_jobs_finished", *BY_TENANT}),
    "changed_lately": (
        queries.changed_lately(), {**parameters("watched", tenant=["tenant1", "tenant2"]), "within_s": 5}, BY_TENANT
    ),
    "delete_completed": (
        retention.delete_completed(), {"kept": timedelta(days=7), "room": 50}, {"ix_jobs_finished"}
    ),
    "delete_failed": (retention.delete_failed(), {"kept": timedelta(days=30), "room": 50}, {"ix_jobs_finished"}),
    "join": (_LIVE_IN_QUEUE, {"queue": "nothing here"}, {"ix_jobs_live", "ix_jobs_offered", "ix_jobs_undispatched"}),
}  # fmt: skip
#: Lists under every combination of filters, of a large tenant and a small one: a match everywhere, rarely, nowhere.
LISTS = list(
    itertools.product(
        ("main", "tenant1"),
        [(), *((status,) for status in Status), (Status.PENDING, Status.RUNNING)],
        (None, "actor1", "nobody"),
        (None, "queue1", "nothing"),
        (None, Place(datetime.now(UTC), JOB)),
    )
)
CASES = [(name, mode) for name in HOT for mode in ("force_custom_plan", "force_generic_plan")]
CASES += [(name, "force_custom_plan") for name in SELDOM]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_it_uses_its_index(filled: psycopg.Connection[Any], name: str, mode: str) -> None:
    statement, values, expected = {**HOT, **SELDOM}[name]
    plan = explain(filled, statement, values, mode)
    scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "jobs"]
    assert scans == [], outline(plan)
    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    assert used & expected, outline(plan)


#: What the web asks.
OF_THE_WEB = {"cancel", "replay", "one_job", "one_event", "newer_versions", *SELDOM}
OF_THE_WEB -= {"delete_completed", "delete_failed", "join"}
WEB_CASES = [(name, mode) for name, mode in CASES if name in OF_THE_WEB]


@pytest.mark.parametrize(("name", "mode"), WEB_CASES)
def test_it_uses_its_index_behind_the_second_wall(
    filled: psycopg.Connection[Any], database_owner: tuple[str, str], name: str, mode: str
) -> None:
    """As the web's role, with the policies' conditions in the plan."""
    statement, values, expected = {**HOT, **SELDOM}[name]
    with filled.transaction(force_rollback=True):
        role = sql.Identifier(rls.web_role("callboard", database_owner[0]))
        filled.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
        filled.execute("SELECT set_config(%s, %s, true)", [rls.TENANT, "tenant1"])
        plan = explain(filled, statement, values, mode)
    scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "jobs"]
    assert scans == [], outline(plan)
    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    assert used & expected, outline(plan)
    assert rls.TENANT in str(plan), "no policy in the plan"


@pytest.mark.parametrize("offered", [False, True])
def test_the_waiting_lists_are_found_by_hops(filled: psycopg.Connection[Any], offered: bool) -> None:
    """Each hop enters the index behind the last pair; as a filter it would read all that lies before."""
    plan = explain(filled, offers.waiting_lists(offered=offered), {}, "force_custom_plan")
    conditions = [node["Index Cond"] for node in nodes(plan) if "Index Cond" in node]
    assert any("ROW(" in condition and ">" in condition for condition in conditions), outline(plan)


@pytest.mark.parametrize("filled", ["backlog"], indirect=True)
@pytest.mark.parametrize("name", ["offer_due", "offer_again", "offer_again, empty list"])
def test_offers_come_in_the_indexs_own_order(filled: psycopg.Connection[Any], name: str) -> None:
    """A sort would read every waiting row of a list to find the first few."""
    statement, values, _ = HOT[name]
    plan = explain(filled, statement, values, "force_custom_plan")
    assert [n["Node Type"] for n in nodes(plan) if n["Node Type"].endswith("Sort")] == [], outline(plan)


@pytest.mark.parametrize("filled", ["history", "backlog"], indirect=True)
@pytest.mark.parametrize("page", [queries.page_of_jobs, board_page])
def test_a_list_reads_no_job_that_its_filter_leaves_out(
    request: pytest.FixtureRequest, filled: psycopg.Connection[Any], page: Any
) -> None:
    """Groups and their newest come from one index alone; the table gives the page's own rows and what is running."""
    allowed = {None, "ix_jobs_running", "pk_jobs"}
    if request.node.callspec.params["filled"] == "history":
        allowed.add("ix_jobs_live")  # with few live jobs, as good a way to those that run
    for tenant, statuses, job_type, queue, before in LISTS:
        wanted = Wanted(statuses, job_type, queue, before, limit=21)
        plan = explain(filled, page(wanted.shape), wanted.values(tenant), "force_custom_plan")
        for node in nodes(plan):
            if node["Node Type"] == "Index Only Scan":
                assert node["Index Name"] == "ix_jobs_groups", outline(plan)
                assert "tenant_id" in node["Index Cond"], outline(plan)
                assert "Filter" not in node, outline(plan)
            else:
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] != "jobs", outline(plan)
                assert node.get("Index Name") in allowed, outline(plan)


@pytest.mark.parametrize("filled", ["history"], indirect=True)
def test_ended_jobs_are_counted_without_a_look_at_the_table(filled: psycopg.Connection[Any]) -> None:
    filled.execute("VACUUM callboard.jobs")
    plan = explain(filled, queue_counts.of_tenant(), {"tenant": "main"}, "force_custom_plan")
    reading = [n["Node Type"] for n in nodes(plan) if n.get("Relation Name") == "jobs"]
    assert sorted(set(reading) - {"Index Only Scan"}) in (["Bitmap Heap Scan"], ["Index Scan"]), outline(plan)
    assert "ix_jobs_live" in {n.get("Index Name") for n in nodes(plan)}, outline(plan)
