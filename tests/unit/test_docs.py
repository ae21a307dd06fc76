"""Documents that cannot lie: what they list is compared with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dev import __main__ as command_line
from dev.home import ROOT
from models.state import TRANSITIONS
from models.tables import jobs

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md"))],
    key=lambda path: str(path.relative_to(ROOT)),
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str, *head: str) -> list[list[str]]:
    """The body of the table with this head."""
    lines = iter(text.splitlines())
    for line in lines:
        if cells(line) == list(head):
            break
    else:
        raise AssertionError(f"no table with the head {head}")
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append(cells(line))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def commands() -> Iterator[str]:
    """Every ``./callboard`` command, groups with their members."""
    command_line.add_groups()
    for name, command in typer.main.get_command(command_line.app).commands.items():  # type: ignore[attr-defined]
        members = getattr(command, "commands", None)
        yield from [name] if members is None else [f"{name} {member}" for member in members]


def test_the_page_of_states_is_the_state_machine() -> None:
    shown = rows(read("docs/explanation/states.md"), "verb", "before", "after", "when")
    assert shown == [[t.verb, t.before or "–", t.after, t.when] for t in TRANSITIONS]


def test_the_page_of_states_draws_every_transition() -> None:
    [drawing] = re.findall(r"^```text\n(.*?)^```$", read("docs/explanation/states.md"), re.MULTILINE | re.DOTALL)
    statuses = {t.after for t in TRANSITIONS}
    assert set(re.findall(r"\b[A-Z]{6,}\b", drawing)) == statuses


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_readme_names_every_command(command: str) -> None:
    assert re.search(rf"\./callboard {command}\b", read("README.md")), (
        f"README.md does not mention ./callboard {command}"
    )


def test_the_readme_names_no_command_that_does_not_exist() -> None:
    named = set(re.findall(r"\./callboard ([a-z-]+)", read("README.md")))
    assert named <= {command.partition(" ")[0] for command in commands()}


def test_the_readme_leads_to_the_settings() -> None:
    assert "(.env.example)" in read("README.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    here = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in here if not (document.parent / target).exists()] == []


def test_every_column_of_the_contract_is_there() -> None:
    """DESIGN section 9, SQL: what outside programs read."""
    promised = (
        "id tenant_id actor queue priority args kwargs options message_timestamp status attempts max_attempts crashes "
        "run_at unique_key worker_id attempt_token result error errors progress version created_at started_at "
        "finished_at updated_at"
    )
    assert set(promised.split()) <= set(jobs.c.keys())
