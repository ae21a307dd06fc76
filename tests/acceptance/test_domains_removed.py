"""Deleting the files of a domain, as docs/how-to/remove-a-sample-domain.md lists them, leaves everything else whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dev.home import ROOT
from tests.acceptance.clone import Clone

PAGE = ROOT / "docs" / "how-to" / "remove-a-sample-domain.md"
#: Seconds for one check.
PATIENCE_S = 300
CHECKS = {
    "ruff": ("-m", "ruff", "check", "."),
    "mypy": ("-m", "mypy"),
    "contracts": ("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"),
    "tests": (
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/unit",
        "tests/integration/test_migrations.py",
    ),
}


def domains() -> dict[str, list[str]]:
    """The files and folders of each domain, by the headings of the page."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        found[name] = re.findall(r"^- `([^`]+)`$", text, re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without any domain."""
    clone = Clone(tmp_path_factory.mktemp("pruned") / "clone")
    for paths in domains().values():
        for path in paths:
            place = clone.folder / path
            assert place.exists(), f"{path} is listed and is not there"
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    return clone.folder


@pytest.mark.timeout(PATIENCE_S + 20)
@pytest.mark.parametrize("check", CHECKS)
def test_what_remains_is_whole(pruned: Path, check: str) -> None:
    done = subprocess.run(
        [pruned / ".venv" / "bin" / "python", *CHECKS[check]],
        cwd=pruned,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.parametrize("name", domains())
def test_nothing_else_names_a_domains_modules(pruned: Path, name: str) -> None:
    modules = [path for path in domains()[name] if path.startswith(("actors/", "models/", "web/"))]
    names = {path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in modules}
    mentions = re.compile(r"\b(" + "|".join(map(re.escape, sorted(names))) + r")\b")
    code = [path for folder in ("actors", "dev", "models", "web") for path in (pruned / folder).rglob("*.py")]
    assert [str(path.relative_to(pruned)) for path in code if mentions.search(path.read_text("utf-8"))] == []
