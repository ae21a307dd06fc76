"""The project's own files agree with each other."""

from __future__ import annotations

import re
import tomllib

from dev.home import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
REQUIREMENTS = (ROOT / "requirements.txt").read_text()


def test_the_lock_names_the_public_index_alone() -> None:
    sources = {str(package["source"]) for package in LOCK["package"]}
    assert sources == {"{'registry': 'https://pypi.org/simple'}", "{'editable': '.'}"}
    assert set(re.findall(r'url = "https?://([^/"]+)', (ROOT / "uv.lock").read_text())) == {"files.pythonhosted.org"}


def test_requirements_are_the_lock_with_hashes() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", REQUIREMENTS, re.MULTILINE))
    assert pinned == {p["name"]: p["version"] for p in LOCK["package"] if p["name"] != "callboard"}
    assert not re.search(r"^\s*(--(?!hash)|-e|[\w.-]+ @|file:)", REQUIREMENTS, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", REQUIREMENTS.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_base_install_is_what_send_needs() -> None:
    base = {re.split(r"[\[>=]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert base == {
        "dramatiq", "psycopg", "pydantic", "pydantic-settings", "redis", "SQLAlchemy", "structlog", "uuid-utils",
    }  # fmt: skip
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["actors", "models"]
    assert set(PROJECT["project"]["optional-dependencies"]) == {
        "worker", "web", "cron", "data", "dashboard", "embedded",
    }  # fmt: skip


def test_no_package_shadows_alembic() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
