"""Development services: found and not listed, engaged where no setting says otherwise, on ports that stay the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import services as package
from dev.environment import Environment
from dev.home import Home
from dev.service import engage, provided, services

PARROT = """
from dev.service import Service

SERVICE = Service(
    name="parrot",
    setting="PARROT_URL",
    ports=("seed", "page"),
    variables=lambda ports, secret: {
        "PARROT_URL": f"parrot://:{secret}@127.0.0.1:{ports['seed']}", "PARROT_NAME": "Polly"
    },
    up_json=lambda ports: {"parrot_url": f"http://127.0.0.1:{ports['page']}"},
    label="Parrot",
    banner=lambda ports: f"http://127.0.0.1:{ports['page']}",
)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(autouse=True)
def parrot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one service, and a module that is none."""
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "parrot.py").write_text(PARROT)
    (folder / "feathers.py").write_text("SERVICE = 'no'\n")
    monkeypatch.setattr(package, "__path__", [str(folder)])
    yield folder / "parrot.py"
    for name in ("parrot", "feathers"):
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def environment(**variables: str) -> Environment:
    return Environment(variables, frozenset())


def test_a_service_is_a_file(parrot: Path) -> None:
    assert [service.name for service in services()] == ["parrot"]
    parrot.unlink()
    assert list(services()) == []


def test_ports_and_secret_stay_the_same(home: Home) -> None:
    [first] = engage(home, environment())
    [again] = engage(home, environment())
    assert first == again
    assert len(set(first.ports.values())) == 2
    assert home.secret("parrot") in first.variables["PARROT_URL"]
    assert first.banner == f"  Parrot     http://127.0.0.1:{first.ports['page']}"


def test_a_given_setting_makes_it_superfluous(home: Home) -> None:
    assert engage(home, environment(PARROT_URL="parrot://real")) == []


def test_production_has_none(home: Home) -> None:
    assert engage(home, environment(CALLBOARD_ENV="production")) == []


def test_what_the_environment_says_stays(home: Home) -> None:
    [engaged] = engage(home, environment(PARROT_NAME="Jack"))
    assert set(engaged.variables) == {"PARROT_URL"}


def test_commands_beside_a_running_up_get_the_same() -> None:
    published = {"PARROT_URL": {"PARROT_URL": "parrot://x", "PARROT_NAME": "Polly"}}
    assert provided(environment(), published) == published["PARROT_URL"]
    assert provided(environment(PARROT_NAME="Jack"), published) == {"PARROT_URL": "parrot://x"}
    assert provided(environment(PARROT_URL="parrot://real"), published) == {}
    assert provided(environment(CALLBOARD_ENV="production"), published) == {}
