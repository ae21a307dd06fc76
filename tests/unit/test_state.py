"""The state machine: the table, and what the ledger's statements do with it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Update
from sqlalchemy.dialects import postgresql

from dev.home import ROOT
from models import history, ledger, offers
from models.state import LIVE, TERMINAL, TRANSITIONS, Status, sources, targets
from models.tables import jobs

VERBS = {t.verb for t in TRANSITIONS}
#: Verbs that make rows; all others change them.
ENTRANCES = {t.verb for t in TRANSITIONS if t.before is None}
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = Status


def updates() -> Iterator[tuple[str, Update]]:
    """Every UPDATE of jobs that ``models`` offers, by its function's name."""
    for module in (ledger, offers):
        for name, function in vars(module).items():
            if name.startswith("_") or getattr(function, "__module__", None) != module.__name__:
                continue
            if not callable(function) or not hasattr(function, "cache_info"):
                continue
            for variant in variants(function):
                if isinstance(variant, Update):
                    yield name, variant


def variants(function: Callable[..., object]) -> list[object]:
    """What a verb returns, for either value of each of its switches."""
    switches = list(inspect.signature(function).parameters)
    return [function(**{name: value}) for name in switches for value in (False, True)] or [function()]


def sets_status(statement: Update) -> bool:
    return "status" in {getattr(key, "key", key) for key in statement._values or {}}


def conditions(statement: Update) -> str:
    """The SQL without SET and RETURNING, values filled in: what the statement and its locking CTEs look for."""
    compiled = statement.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    sql = re.sub(r"__\[POSTCOMPILE_(\w+)\]", lambda found: str(compiled.params[found[1]]), str(compiled))
    sql %= {name: f"'{value}'" for name, value in compiled.params.items()}
    return re.sub(r" SET .*? WHERE ", " WHERE ", sql, flags=re.DOTALL).partition(" RETURNING ")[0]


def statuses_in(sql: str) -> set[Status]:
    return {status for status in Status if f"'{status}'" in sql}


def test_live_and_terminal_are_all_and_do_not_meet() -> None:
    assert set(Status) == LIVE | TERMINAL
    assert not LIVE & TERMINAL


def test_every_status_can_be_reached_and_every_live_one_left() -> None:
    assert {t.after for t in TRANSITIONS} == set(Status)
    assert {t.before for t in TRANSITIONS} >= set(LIVE)


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("enqueue", set(), {PENDING}),
        ("claim", {PENDING}, {RUNNING}),
        ("complete", {RUNNING}, {COMPLETED}),
        ("fail_attempt", {RUNNING}, {PENDING, FAILED, CANCELLED}),
        ("rescue", {RUNNING}, {PENDING, FAILED, CANCELLED}),
        ("replay", {FAILED, CANCELLED}, {PENDING}),
    ],
)
def test_sources_and_targets(verb: str, before: set[Status], after: set[Status]) -> None:
    assert sources(verb) == before
    assert targets(verb) == after


def test_a_completed_job_is_left_by_nothing() -> None:
    assert not any(t.before is COMPLETED for t in TRANSITIONS)


def test_every_verb_of_the_table_is_a_function_of_the_ledger() -> None:
    missing = {verb for verb in VERBS if not any(callable(getattr(part, verb, None)) for part in (ledger, history))}
    assert missing == set()


def test_every_update_of_status_names_the_prior_status() -> None:
    """Without it an old attempt, or a slow rescuer, could overwrite what has already ended."""
    seen = set()
    for name, statement in updates():
        if sets_status(statement):
            seen.add(name)
            assert re.search(r"\bjobs\.status (=|IN)", conditions(statement)), name
    assert seen >= VERBS - ENTRANCES


#: Statuses that a verb looks at without leaving them: its own earlier success, or a cancel that is only asked for.
ALSO_SEEN = {"claim": {RUNNING}, "cancel": {RUNNING}}


@pytest.mark.parametrize("verb", sorted(VERBS - ENTRANCES))
def test_a_verb_looks_for_the_tables_sources_and_no_other_status(verb: str) -> None:
    for statement in variants(getattr(ledger, verb)):
        assert isinstance(statement, Update)
        assert statuses_in(conditions(statement)) == sources(verb) | ALSO_SEEN.get(verb, set())


@pytest.mark.parametrize("verb", ["complete", "fail_attempt", "give_back", "report_progress"])
def test_what_an_attempt_writes_names_its_token(verb: str) -> None:
    (statement,) = variants(getattr(ledger, verb))
    assert isinstance(statement, Update)
    assert re.search(r"token = \S*jobs\.attempt_token|jobs\.attempt_token = ", conditions(statement))


def test_every_change_that_is_shown_raises_the_version() -> None:
    for name, statement in updates():
        keys = {getattr(key, "key", key) for key in statement._values or {}}
        if keys & {"status", "progress", "error", "attempts"}:
            assert {"version", "updated_at"} <= keys, name


def test_only_the_ledger_writes_job_rows() -> None:
    """Nowhere else is ``jobs`` inserted into, updated or deleted from (the pruner's deletes apart)."""
    allowed = {"models/ledger.py", "models/history.py", "models/offers.py", "models/retention.py"}
    found = []
    for package in ("models", "actors", "web", "dev"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or name in allowed:
                    continue
                called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                first = node.args[0] if node.args else None
                table = getattr(first, "id", None) or getattr(first, "attr", None)
                if called in ("insert", "update", "delete") and table == jobs.name:
                    found.append(f"{name}:{node.lineno}")
    assert found == []
