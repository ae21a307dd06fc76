"""``./callboard check`` names what is wrong: every fault is planted in real servers, tables, files or variables."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine

from dev.checking import actors, checks, postgres
from dev.checking import redis as redis_checks
from dev.checking.checks import CHECKS, Report, examine
from dev.checking.finding import Check, Context, Finding, Level, Need
from dev.home import ROOT
from dev.valkey import Valkey
from models.settings import load_settings
from tests.conftest import clean_environment, new_database
from tests.integration import worker_support
from tests.integration.ledger_support import Book
from tests.integration.worker_support import Stage, a_valkey
from tests.support import callboard

pytestmark = pytest.mark.once

stage = worker_support.stage


@dataclass
class Scene:
    """A system in which something can be broken."""

    folder: Path
    variables: dict[str, str]
    postgres_url: str
    owner: tuple[str, str]
    engine: Engine
    valkey: Redis
    patch: pytest.MonkeyPatch
    late: ExitStack = field(default_factory=ExitStack)

    @property
    def book(self) -> Book:
        return Book(self.engine)

    def sql(self, statement: str, **values: Any) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(statement, values)

    def module(self, text: str) -> str:
        """A new module of actors; named in CALLBOARD_ACTORS, and returned."""
        name = f"planted_{secrets.token_hex(4)}"
        (self.folder / f"{name}.py").write_text(text)
        self.variables["CALLBOARD_ACTORS"] = f"actors,{name}"
        self.variables["PYTHONPATH"] = f"{ROOT}:{self.folder}"
        return name

    def examine(self) -> Report:
        # Importing takes a second: only where modules were planted.
        asked = [check for check in CHECKS if check.ask is not actors.actor_modules or "PYTHONPATH" in self.variables]
        with clean_environment(**self.variables):
            return examine(self.variables, load_settings(_env_file=None), checks=asked)

    def overdue(self, **columns: Any) -> UUID:
        """A job that has been due for two minutes."""
        job = self.book.job(**columns)
        self.sql("UPDATE callboard.jobs SET run_at = now() - interval '2 minutes' WHERE id = %(id)s", id=job)
        return job


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[Valkey]:
    """A Valkey that these tests may spoil."""
    with a_valkey(server_folder) as valkey:
        yield valkey


@pytest.fixture
def scene(
    tmp_path: Path,
    environment: dict[str, str],
    engine: Engine,
    postgres_url: str,
    database_owner: tuple[str, str],
    servers: Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    variables = {**environment, "REDIS_URL": f"{servers.url}/3"}
    with Redis.from_url(servers.url) as valkey:
        scene = Scene(tmp_path, variables, postgres_url, database_owner, engine, valkey, monkeypatch)
        with scene.late:
            yield scene
        valkey.config_set("maxmemory-policy", "noeviction")


# -- faults, each with the code by which it is named


def postgres_is_down(scene: Scene) -> None:
    scene.variables["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"


def redis_is_down(scene: Scene) -> None:
    scene.variables["REDIS_URL"] = "redis://127.0.0.1:1/1"


def postgres_is_old(scene: Scene) -> None:
    scene.patch.setattr(postgres, "OLDEST", 99)


def redis_is_old(scene: Scene) -> None:
    scene.patch.setattr(redis_checks, "OLDEST", (99, 0))


def nothing_is_migrated(scene: Scene) -> None:
    scene.variables["DATABASE_URL"] = scene.late.enter_context(new_database(scene.postgres_url, scene.owner))


def a_migration_is_missing(scene: Scene) -> None:
    versions = scene.folder / "versions"
    versions.mkdir()
    (versions / "9999_newer.py").write_text('revision = "9999"\ndown_revision = "0001"\n')
    config = postgres.alembic_config()
    config.set_main_option("version_locations", f"{ROOT / 'alembic' / 'versions'}:{versions}")
    config.set_main_option("path_separator", ":")
    scene.patch.setattr(postgres, "alembic_config", lambda: config)


def newer_code_has_migrated(scene: Scene) -> None:
    scene.sql("INSERT INTO callboard.alembic_version VALUES ('from_the_future')")


def redis_evicts(scene: Scene) -> None:
    scene.valkey.config_set("maxmemory-policy", "allkeys-lru")


def an_actor_module_is_broken(scene: Scene) -> None:
    scene.module("import a_library_that_is_not_installed\n")


def an_actor_module_exits(scene: Scene) -> None:
    scene.module("import os\nos._exit(3)\n")


def an_actor_is_bound_elsewhere(scene: Scene) -> None:
    scene.module(
        "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\n"
        "@dramatiq.actor(broker=StubBroker())\ndef stray(): ...\n"
    )


def production_has_no_secret(scene: Scene) -> None:
    scene.variables |= {"CALLBOARD_ENV": "production", "CALLBOARD_SECRET_KEY": ""}


def a_dead_workers_job_runs_on(scene: Scene) -> None:
    worker = scene.book.worker()
    scene.book.running(worker)
    scene.sql("UPDATE callboard.workers SET dead_at = now() - interval '1 minute', death = 'lost'")


def the_relay_rests(scene: Scene) -> None:
    scene.overdue()


def a_queue_has_no_worker(scene: Scene) -> None:
    scene.overdue(queue="forgotten")


def a_worker_holds_no_lock(scene: Scene) -> None:
    """It beats between the two looks."""
    scene.book.worker()
    beat = "UPDATE callboard.workers SET beat_at = clock_timestamp()"
    scene.patch.setattr(checks.work, "pause", lambda _seconds: scene.sql(beat))


def a_worker_has_vanished(scene: Scene) -> None:
    scene.book.worker()
    scene.sql("UPDATE callboard.workers SET beat_at = now() - interval '30 s'")


def a_worker_is_silent(scene: Scene) -> None:
    worker = scene.book.worker()
    scene.sql("UPDATE callboard.workers SET beat_at = now() - interval '50 s'")
    with clean_environment(**scene.variables):
        lock_class = checks.work.liveness.lock_class(load_settings(_env_file=None).db_schema)
    connection = scene.late.enter_context(scene.engine.connect())
    connection.exec_driver_sql(
        "SELECT pg_advisory_lock(%(class)s, lock_key) FROM callboard.workers WHERE id = %(id)s",
        {"class": lock_class, "id": worker},
    )


def a_worker_crashed(scene: Scene) -> None:
    scene.book.worker(dead=True)


def the_role_is_a_superuser(scene: Scene) -> None:
    name = f"strong_{secrets.token_hex(4)}"
    owned = scene.variables["DATABASE_URL"]
    with psycopg.connect(scene.postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'strong'")  # type: ignore[call-overload]
    scene.variables["DATABASE_URL"] = f"postgresql://{name}:strong@{owned.partition('@')[2]}"

    def drop() -> None:
        with psycopg.connect(scene.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}")  # type: ignore[call-overload]

    scene.late.callback(drop)


def the_url_names_no_database(scene: Scene) -> None:
    scene.variables["REDIS_URL"] = scene.variables["REDIS_URL"].removesuffix("/3")


def redis_forgets(scene: Scene) -> None:
    """As the Valkey of these tests does anyway."""


def production_allows_loopback(scene: Scene) -> None:
    scene.variables |= {"CALLBOARD_ENV": "production", "CALLBOARD_WEBHOOK_ALLOW_LOOPBACK": "1"}


def mail_is_half_set(scene: Scene) -> None:
    scene.variables["CALLBOARD_SMTP_URL"] = "smtp://127.0.0.1"


def failures_go_first(scene: Scene) -> None:
    scene.variables["CALLBOARD_RETENTION_FAILED"] = "1h"


def results_go_at_once(scene: Scene) -> None:
    scene.variables["CALLBOARD_RETENTION_COMPLETED"] = "0s"


def the_clocks_differ(scene: Scene) -> None:
    scene.patch.setattr(postgres, "SKEW_S", -1.0)


def a_pooler_answers(scene: Scene) -> None:
    """As through one: the process that answers is another one at the second question."""
    answers = postgres._server
    scene.patch.setattr(
        postgres, "_server", lambda context: SimpleNamespace(**{**answers(context)._mapping, "backend_pid": 1})
    )


def a_schedule_has_no_ticker(scene: Scene) -> None:
    scene.sql(
        "INSERT INTO callboard.schedules (tenant_id, name, actor, module, expression, tz, args, kwargs, options,"
        " missed, at_most, overlap, last_tick_at, next_tick_at) VALUES ('default', 'forgotten', 'nobody', 'nowhere',"
        " '* * * * *', 'UTC', '[]', '{}', '{}', 'once', 1, 'allow', now() - interval '2 h', now() - interval '1 h')"
    )


def a_table_has_no_policy(scene: Scene) -> None:
    scene.sql("DROP POLICY callboard_web ON callboard.jobs")


ERRORS: dict[Callable[[Scene], None], str] = {
    postgres_is_down: "postgres-unreachable",
    redis_is_down: "redis-unreachable",
    postgres_is_old: "postgres-version",
    redis_is_old: "redis-version",
    nothing_is_migrated: "schema-missing",
    a_migration_is_missing: "schema-behind",
    newer_code_has_migrated: "schema-ahead",
    redis_evicts: "eviction-policy",
    an_actor_module_is_broken: "actors-import",
    an_actor_module_exits: "actors-import",
    an_actor_is_bound_elsewhere: "actors-elsewhere",
    production_has_no_secret: "secret-key",
    a_dead_workers_job_runs_on: "running-of-the-dead",
    the_relay_rests: "undispatched",
    a_queue_has_no_worker: "queue-unattended",
    a_worker_holds_no_lock: "lock-missing",
    a_worker_has_vanished: "worker-gone",
    a_worker_is_silent: "worker-silent",
    a_schedule_has_no_ticker: "schedule-stale",
}
WARNINGS: dict[Callable[[Scene], None], str] = {
    a_worker_crashed: "workers-crashed",
    the_role_is_a_superuser: "role-too-strong",
    the_url_names_no_database: "redis-database",
    redis_forgets: "redis-persistence",
    production_allows_loopback: "webhook-loopback",
    mail_is_half_set: "mail-half-set",
    failures_go_first: "retention",
    results_go_at_once: "retention",
    the_clocks_differ: "clock-skew",
    a_pooler_answers: "pooler",
    a_table_has_no_policy: "no-second-wall",
}


def by_name(fault: object) -> str:
    return getattr(fault, "__name__", str(fault))


@pytest.mark.parametrize(("fault", "code"), ERRORS.items(), ids=by_name)
def test_an_error_is_named(scene: Scene, fault: Callable[[Scene], None], code: str) -> None:
    fault(scene)
    named = {finding.code for finding in scene.examine().findings if finding.level is Level.ERROR}
    assert code in named
    assert named <= {code, *SYMPTOMS.get(code, ())}


#: What else is rightly said when one thing is wrong.
SYMPTOMS = {"undispatched": ("queue-unattended",), "queue-unattended": ("undispatched",)}


@pytest.mark.parametrize(("fault", "code"), WARNINGS.items(), ids=by_name)
def test_a_warning_is_given(scene: Scene, fault: Callable[[Scene], None], code: str) -> None:
    fault(scene)
    findings = scene.examine().findings
    assert code in {finding.code for finding in findings if finding.level is Level.WARNING}
    assert [finding.line for finding in findings if finding.level is Level.ERROR] == []


def test_a_healthy_system_has_no_error(stage: Stage, environment: dict[str, str]) -> None:
    @stage.actor
    def work() -> None: ...

    stage.start()
    stage.run(work.send())
    report = examine(environment, load_settings(_env_file=None))
    assert [finding.line for finding in report.findings if finding.code != "redis-persistence"] == []
    assert report.left_out == {}
    assert len(report.asked) == len(CHECKS)


def test_a_worker_that_died_this_moment_is_no_finding(scene: Scene) -> None:
    scene.book.worker()
    buried = "UPDATE callboard.workers SET dead_at = now(), death = 'lost'"
    scene.patch.setattr(checks.work, "pause", lambda _seconds: scene.sql(buried))
    assert [finding.line for finding in scene.examine().findings if finding.level is Level.ERROR] == []


def test_what_cannot_be_asked_is_left_out_and_said(scene: Scene) -> None:
    postgres_is_down(scene)
    redis_is_down(scene)
    report = scene.examine()
    assert {finding.code for finding in report.findings} == {"postgres-unreachable", "redis-unreachable"}
    assert report.left_out["locks"] == "Postgres, our tables"
    assert report.left_out["relay"] == "Postgres, Redis, our tables"
    assert set(report.left_out) | set(report.asked) | {"actor modules"} == {check.name for check in CHECKS}


def test_a_check_that_breaks_hides_no_other(scene: Scene) -> None:
    def broken(_: Context) -> list[Finding]:
        raise RuntimeError("of its own")

    def asked(_: Context) -> list[Finding]:
        return []

    with clean_environment(**scene.variables):
        report = examine(
            scene.variables,
            load_settings(_env_file=None),
            checks=[Check(broken), Check(asked, frozenset({Need.REDIS}))],
        )
    (finding,) = report.findings
    assert (finding.level, finding.code) == (Level.ERROR, "check-failed")
    assert "RuntimeError: of its own" in finding.what
    assert report.asked == ["broken", "asked"]


def test_a_full_list_is_no_fault_of_the_relay(scene: Scene) -> None:
    """What Redis has no room for waits in Postgres, however long."""
    the_relay_rests(scene)
    scene.patch.setattr(checks.work, "LIST_CAP", 0)
    assert "undispatched" not in {finding.code for finding in scene.examine().findings}


# -- the command


def test_with_warnings_only_it_ends_with_0_and_says_everything_in_json(scene: Scene) -> None:
    done = callboard("check", "--json", **scene.variables)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {(finding["level"], finding["code"]) for finding in told["findings"]} == {
        ("warning", "redis-persistence"),
        ("warning", "no-worker"),
    }
    assert all(finding[part] for finding in told["findings"] for part in ("what", "why", "remedy"))
    assert len(told["asked"]) == len(CHECKS)


def test_with_an_error_it_ends_with_1_and_each_finding_is_one_line(scene: Scene) -> None:
    redis_evicts(scene)
    done = callboard("check", **scene.variables)
    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["error", "eviction-policy:"],
        ["warning", "redis-persistence:"],
        ["warning", "no-worker:"],
    ]
    assert "Set maxmemory-policy noeviction" in lines[0]
    assert last == f"{len(CHECKS)} checks: 1 error(s), 2 warning(s)"


def test_all_wrong_settings_are_named_at_once(scene: Scene) -> None:
    wrong = {**scene.variables, "CALLBOARD_THREADS": "many", "CALLBOARD_LEASE_S": "0", "REDIS_URL": "http://x"}
    done = callboard("check", **wrong)
    assert done.returncode == 1
    settings = [line for line in done.stdout.splitlines() if line.startswith("error   settings:")]
    assert len(settings) == 3
    for name in ("CALLBOARD_THREADS", "CALLBOARD_LEASE_S", "REDIS_URL"):
        assert sum(name in line for line in settings) == 1


def test_production_without_servers_is_an_error(scene: Scene) -> None:
    done = callboard("check", CALLBOARD_ENV="production")
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stdout
