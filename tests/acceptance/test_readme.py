"""README.md is executed: its files are written into a copy of the tree, its commands run there."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.home import ROOT
from tests.acceptance.spine import RELOAD_S, Spine
from tests.browser.site import free_port
from tests.support import wait_for

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: The address in the text.
ADDRESS = "http://127.0.0.1:8000"
#: Seconds for one block.
PATIENCE_S = 60

_BLOCK = re.compile(r"^<!-- (file|run): (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> dict[str, str]:
    """The blocks that a comment above declares as ``file`` or ``run``, by name."""
    return {name: text for found, name, text in _BLOCK.findall(README) if found == kind}


def console() -> list[str]:
    """The commands of all ``console`` blocks, without their comments."""
    lines = "".join(_CONSOLE.findall(README)).splitlines()
    return [line.removeprefix("$ ").partition(" #")[0].strip() for line in lines if line.startswith("$ ")]


# -- blocks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(spine: Spine) -> Spine:
    """The clone of somebody who has written every file that the README shows."""
    for name, content in blocks("file").items():
        path = spine.clone.folder / name
        assert not path.exists(), f"{name} is part of the tree"
        path.write_text(content)
    wait_for(lambda: spine.knows("greet"), RELOAD_S, interval=0.1, what="greet is a job type")
    return spine


def sent_by_curl(spine: Spine, output: str) -> None:
    """Prints the job; it has a priority of its own and runs."""
    job = json.loads(output)
    assert (job["type"], job["payload"], job["priority"]) == ("sleep", {"delayMs": 500}, -1)
    assert spine.wait_until_ended(job["id"])["result"] == {"slept_ms": 500}


def sent_from_python(spine: Spine, output: str) -> None:
    """Prints the id and the result."""
    job_id, _, result = output.strip().partition(" ")
    assert ast.literal_eval(result) == {"slept_ms": 200}
    assert spine.job(job_id)["status"] == "COMPLETED"


def sent_by_a_shop(spine: Spine, output: str) -> None:
    """Prints the result; the order is there, in a table of the shop's own and not among ours."""
    assert ast.literal_eval(output) == {"slept_ms": 200}
    where = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'orders' AND relkind = 'r'"
    assert spine.value("SELECT string_agg(item, ',') FROM orders") == "espresso"
    assert spine.value(where) == "public"


def greeted(_: Spine, output: str) -> None:
    """Prints the greeting."""
    assert ast.literal_eval(output) == {"text": "Hello, Ada"}


CHECKS: dict[str, Callable[[Spine, str], None]] = {
    "curl": sent_by_curl,
    "python": sent_from_python,
    "shop": sent_by_a_shop,
    "greet": greeted,
}


def test_every_block_that_is_run_is_checked() -> None:
    assert set(blocks("run")) == set(CHECKS)
    assert set(blocks("file")) == {"shop.py", "actors/greet.py"}
    loose = re.findall(r"(?<!-->\n)^```(sh|python|bash)$", README, re.MULTILINE)
    assert loose == [], "a block of code that nobody executes"


@pytest.mark.parametrize("name", blocks("run"))
def test_a_block_does_what_the_text_says(reader: Spine, name: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks("run")[name].replace(ADDRESS, reader.url)],
        cwd=reader.clone.folder,
        env=reader.clone.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    CHECKS[name](reader, done.stdout)


def test_a_job_type_of_one_file_takes_ten_lines(reader: Spine) -> None:
    code = [line for line in blocks("file")["actors/greet.py"].splitlines() if line and "import" not in line]
    assert len(code) <= 10
    with reader.api() as api:
        assert "greet" in json.dumps(api.get("/openapi.json").json()["components"]["schemas"]["Send.greet"])


# -- commands -------------------------------------------------------------------------------------------------

#: Commands of the README that other tests are about.
ELSEWHERE = {"./callboard up", "./callboard test"}


def test_the_banner_is_the_one_that_up_prints(spine: Spine) -> None:
    [shown] = re.findall(r"^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    said = spine.running.said()
    for line in shown.strip().splitlines():
        pattern = r"\S+".join(re.escape(part) for part in line.strip().split("…"))
        pattern = re.sub(r"(\\ )+", r"\\s+", pattern).replace(re.escape(ADDRESS), re.escape(spine.url))
        assert re.search(pattern.removesuffix(r"\S+") if line.endswith("…") else pattern, said), line


@pytest.fixture
def native(spine: Spine, tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], Path]]]:
    """Starts a command of the README with the servers' variables set, in the clone; ended afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str, **variables: str) -> tuple[subprocess.Popen[bytes], Path]:
        assert command in console()
        output = tmp_path / f"{len(started)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["./callboard", "run", "--", *command.split()],
                cwd=spine.clone.folder,
                env=spine.clone.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        started.append(process)
        return process, output

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


Native = Callable[..., tuple[subprocess.Popen[bytes], Path]]


def test_every_command_is_executed() -> None:
    assert set(console()) == ELSEWHERE | {MIGRATE, WORK, SCHEDULE, SERVE}


MIGRATE = "alembic upgrade head"
WORK = "dramatiq actors -p 1 --threads 8"
SCHEDULE = "periodiq actors"
SERVE = "uvicorn --factory web.app:create_app"


def test_alembic_migrates(native: Native) -> None:
    process, output = native(MIGRATE)
    assert process.wait(PATIENCE_S) == 0, output.read_text()


def test_dramatiq_works_and_stops_in_good_order(native: Native, spine: Spine) -> None:
    before = {row["id"] for row in spine.workers()}
    process, output = native(WORK)

    def new() -> dict[str, object] | None:
        assert process.poll() is None, output.read_text()
        return next((row for row in spine.workers() if row["id"] not in before and row["kind"] == "worker"), None)

    worker = wait_for(new, PATIENCE_S, what="a third worker")
    assert worker["threads"] == 8
    process.terminate()
    assert process.wait(PATIENCE_S) == 0, output.read_text()
    [row] = [row for row in spine.workers() if row["id"] == worker["id"]]
    assert row["death"] == "stopped"


def test_periodiq_starts_or_finds_no_schedules(native: Native, spine: Spine) -> None:
    """It has work as long as an actor declares a schedule; those that do are samples, and may have been deleted."""
    process, output = native(SCHEDULE)
    if spine.value("SELECT count(*) FROM callboard.schedules WHERE module LIKE 'actors%'") == 0:
        assert process.wait(PATIENCE_S) == 1
        assert "No periodic actor to schedule" in output.read_text()
        return
    wait_for(lambda: "Registered periodic actors" in output.read_text(), PATIENCE_S, what="periodiq has schedules")
    process.terminate()
    process.wait(PATIENCE_S)


def test_uvicorn_serves(native: Native) -> None:
    port = free_port()
    process, output = native(SERVE, UVICORN_PORT=str(port))

    def ready() -> bool:
        assert process.poll() is None, output.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_for(ready, PATIENCE_S, what="uvicorn answers")
    process.terminate()
    assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM), output.read_text()
