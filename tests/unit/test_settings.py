"""Settings: all faults at once, the forms that are accepted, which source wins, and a complete example file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from dotenv import dotenv_values

from dev.home import ROOT
from models.settings import Settings, SettingsError, get_settings, load_settings, variables

NEEDED = {"DATABASE_URL": "postgresql://u:p@h/d", "REDIS_URL": "redis://h"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in variables().values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in {**NEEDED, **values}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_every_fault_is_named_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "DATABASE_URL": "mysql://x",
        "CALLBOARD_THREADS": "many",
        "CALLBOARD_DB_SCHEMA": "public",
        "CALLBOARD_SECRET_KEY": "short",
        "CALLBOARD_ENV": "staging",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for name in (*wrong, "REDIS_URL is not set"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_database_urls_become_one_form(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    url = "://u:p%40@h:5/d?sslmode=require"
    assert settings(monkeypatch, DATABASE_URL=scheme + url).database_url == "postgresql" + url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", "redis://h/7"),
        ("redis://h/", "redis://h/7"),
        ("redis://:p@h:1/3", "redis://:p@h:1/3"),
        ("redis://h/0", "redis://h/0"),
        ("rediss://h?db=4", "rediss://h?db=4"),
        ("unix:///s.sock", "unix:///s.sock?db=7"),
        ("unix:///s.sock?db=2", "unix:///s.sock?db=2"),
    ],
)
def test_redis_db_counts_when_the_url_names_none(monkeypatch: pytest.MonkeyPatch, url: str, expected: str) -> None:
    assert settings(monkeypatch, REDIS_URL=url, REDIS_DB="7").redis_url_with_db == expected


def test_redis_db_is_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch).redis_url_with_db == "redis://h/1"


def test_lists_and_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(
        monkeypatch,
        CALLBOARD_ACTORS="actors, shop.jobs ,",
        CALLBOARD_CORS_ORIGINS="https://a.example,https://b.example",
        CALLBOARD_RETENTION_COMPLETED="12h",
        CALLBOARD_RETENTION_FAILED="P2D",
    )
    assert read.actors == ("actors", "shop.jobs")
    assert read.cors_origins == ("https://a.example", "https://b.example")
    assert read.retention_completed == timedelta(hours=12)
    assert read.retention_failed == timedelta(days=2)


def test_process_beats_env_local_beats_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLBOARD_THREADS=1\nCALLBOARD_PROCESSES=1\nCALLBOARD_LEASE_S=11\n")
    (tmp_path / ".env.local").write_text("CALLBOARD_THREADS=2\nCALLBOARD_PROCESSES=2\n")
    read = settings(monkeypatch, CALLBOARD_THREADS="3")
    assert (read.threads, read.processes, read.lease_s) == (3, 2, 11)


def test_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, CALLBOARD_SMTP_URL="", CALLBOARD_THREADS="").smtp_url is None
    monkeypatch.setenv("REDIS_URL", "")
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        load_settings()


def test_settings_are_frozen_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(monkeypatch)
    with pytest.raises(ValueError, match="frozen"):
        read.threads = 3  # type: ignore[misc]
    get_settings.cache_clear()
    try:
        assert get_settings() is get_settings()
    finally:
        get_settings.cache_clear()


def test_the_example_file_is_complete_and_says_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    example = dotenv_values(ROOT / ".env.example")
    assert set(example) == set(variables().values())
    plain = settings(monkeypatch)
    for name, value in example.items():
        if value:
            monkeypatch.setenv(name, value)
    assert load_settings() == plain
