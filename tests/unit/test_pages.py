"""Words for times and values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from web import pages

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "now"), (0.9, "now"), (1, "1 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (3_599, "59 min ago"),
     (7_200, "2 h ago"), (86_400 * 3, "3 d ago"), (-5, "in 5 s"), (-100, "in 2 min")],
)  # fmt: skip
def test_relative_times(seconds: float, words: str) -> None:
    assert pages.relative(NOW - timedelta(seconds=seconds), NOW) == words


def test_the_script_counts_in_the_same_units() -> None:
    script = (pages.STATIC / "time.js").read_text()
    assert '[["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]' in script


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0.00 s"), (0.421, "0.42 s"), (12.4, "12 s"), (185, "3 min 5 s"), (7_800, "2 h 10 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert pages.duration(seconds) == words


def test_moments_of_every_origin() -> None:
    for value in (NOW, NOW.isoformat(), "2030-01-31T12:00:00Z", NOW.timestamp(), NOW.replace(tzinfo=None)):
        assert pages.moment(value) == NOW
    assert pages.moment(None) is None
    assert pages.moment("soon") is None


def test_pretty_json_is_cut_but_never_quietly() -> None:
    assert pages.pretty({"ü": [1]}) == '{\n  "ü": [\n    1\n  ]\n}'
    shown = pages.pretty(["x" * 100] * 1_000)
    assert len(shown) < pages.PRETTY_LIMIT + 100
    assert shown.endswith("the API has the whole")


def test_nothing_in_templates_or_styles_needs_more_than_the_policy_allows() -> None:
    """No inline script, style or handler, and nothing from elsewhere."""
    for template in (pages.HERE / "templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=\"/static/)", text), template
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text), template
        assert "|safe" not in text, template
    for file in pages.STATIC.iterdir():
        urls = re.findall(r"https?://[^\s\"']+", file.read_text())
        assert set(urls) <= {"http://www.w3.org/2000/svg"}, file
    for script in pages.STATIC.glob("*.js"):
        assert not re.search(r"innerHTML\s*=[^=]|insertAdjacentHTML|document\.write|\beval\(", script.read_text()), (
            script
        )
