"""What a café's row keeps of a place, and what a file of cafés must be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors._cafe_details import details_of, web_address, week
from actors._places import Period, Place
from dev.cafe_seed import seeds
from web.domains._cafe_import import read_import, slugify
from web.problems import Problem


def place(**fields: Any) -> Place:
    return Place.model_validate({"id": "p", "displayName": {"text": "Café"}, **fields})


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("https://www.Cafe.example/menu?utm_source=maps#today", "https://www.cafe.example/menu"),
        ("http://cafe.example", "http://cafe.example/"),
        ("https://user:secret@cafe.example:8443/x", "https://cafe.example:8443/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("javascript:alert(1)", None),
        ("ftp://cafe.example/", None),
        ("https:///nowhere", None),
        ("https://cafe.example:99999/", None),
        ("https://cafe.example/a b", None),
        ("https://cafe.example/\n", None),
        ("https://cafe.example/" + "x" * 3000, None),
        (None, None),
    ],
)
def test_a_website_is_origin_and_path(given_url: str | None, kept: str | None) -> None:
    assert web_address(given_url, query=False) == kept


@given(st.text(max_size=50))
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert web_address(text, query=True) is None or text.strip().lower().startswith("http")


def periods(*spans: tuple[int, int, int | None]) -> list[Period]:
    """(day, opening hour, closing hour; None: never)."""
    return [
        Period.model_validate(
            {"open": {"day": day, "hour": opens}, "close": None if closes is None else {"day": day, "hour": closes}}
        )
        for day, opens, closes in spans
    ]


def test_hours_are_sorted_by_weekday_and_time() -> None:
    assert week(periods((0, 10, 16), (1, 14, 18), (1, 8, 12))) == {
        "mon": [["08:00", "12:00"], ["14:00", "18:00"]],
        "sun": [["10:00", "16:00"]],
    }


def test_a_place_without_a_closing_time_is_always_open() -> None:
    assert list(week(periods((0, 0, None)))) == ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    assert set(map(str, week(periods((0, 0, None))).values())) == {"[['00:00', '24:00']]"}


@pytest.mark.parametrize(
    ("status", "operational"),
    [("OPERATIONAL", True), (None, True), ("CLOSED_TEMPORARILY", False), ("CLOSED_PERMANENTLY", False), ("NEW", False)],
)
def test_what_is_not_operational_is_closed(status: str | None, operational: bool) -> None:
    assert details_of(place(businessStatus=status))["operational"] is operational


def test_what_the_provider_leaves_out_is_empty() -> None:
    details = details_of(place())
    assert details.pop("new_source_place_id") == "p"
    assert details.pop("operational") is True
    assert details.pop("new_links") == {}
    assert set(details.values()) == {None}


@pytest.mark.parametrize(
    ("level", "number"), [(None, None), ("PRICE_LEVEL_FREE", 0), ("PRICE_LEVEL_VERY_EXPENSIVE", 4), ("?", None)]
)
def test_price_levels_are_numbers(level: str | None, number: int | None) -> None:
    assert details_of(place(priceLevel=level))["new_price_level"] == number


def test_the_seed_is_some_two_hundred_cafes_and_always_the_same() -> None:
    assert 190 <= len(seeds()) <= 220
    assert len({seed.city["slug"] for seed in seeds()}) == 12
    assert len({(seed.row["city_slug"], seed.row["slug"]) for seed in seeds()}) == len(seeds())
    assert len({seed.place["id"] for seed in seeds()}) == len(seeds())
    for seed in seeds():
        details_of(Place.model_validate(seed.place))


# -- import


def read(*records: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return read_import("application/json", json.dumps({"cafes": records}).encode())


def test_json_and_csv_say_the_same() -> None:
    cities, rows = read({"name": "Café Ü", "city": "Köln", "countryCode": "DE", "sourcePlaceId": "x"})
    csv_body = "name,city,countryCode,address,sourcePlaceId\r\nCafé Ü,Köln,DE,,x\r\n".encode("utf-8-sig")
    csv_cities, csv_rows = read_import("text/csv", csv_body)
    assert cities == csv_cities == [{"slug": "koln", "name": "Köln", "country_code": "DE"}]
    assert [{**row, "id": None} for row in rows] == [{**row, "id": None} for row in csv_rows]
    assert (rows[0]["slug"], rows[0]["source_place_id"], rows[0]["status"]) == ("cafe-u", "x", "NEW")


GOOD = {"name": "A", "city": "B", "countryCode": "AT"}


@pytest.mark.parametrize(
    ("media_type", "body", "status", "pointer"),
    [
        ("text/plain", b"x", 415, None),
        ("application/json", b"[]", 422, "/cafes"),
        ("application/json", b'{"cafes": []}', 422, "/cafes"),
        ("application/json", json.dumps({"cafes": [GOOD], "x": 1}).encode(), 422, "/cafes"),
        ("application/json", json.dumps({"cafes": [GOOD, {**GOOD, "slug": "A b"}]}).encode(), 422, "/cafes/1/slug"),
        ("application/json", json.dumps({"cafes": [{**GOOD, "x": 1}]}).encode(), 422, "/cafes/0/x"),
        ("application/json", json.dumps({"cafes": [{**GOOD, "name": "  "}]}).encode(), 422, "/cafes/0/name"),
        ("application/json", json.dumps({"cafes": [{**GOOD, "status": "OPEN"}]}).encode(), 422, "/cafes/0/status"),
        ("application/json", json.dumps({"cafes": [GOOD, GOOD]}).encode(), 409, "/cafes/1"),
        ("text/csv", b"name,city,countryCode\nA,B,AT,more\n", 422, "/cafes/0"),
        ("text/csv", b"name,city,countryCode\nA,B\n", 422, "/cafes/0"),
        ("text/csv", b'name,city,countryCode\n"A,B,AT\n', 422, ""),
        ("text/csv", b"name,city,countryCode\n\xff,B,AT\n", 422, ""),
        ("text/csv", b"", 422, "/cafes"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_whole(media_type: str, body: bytes, status: int, pointer: str | None) -> None:
    with pytest.raises(Problem) as refused:
        read_import(media_type, body)
    assert refused.value.status == status
    assert pointer is None or refused.value.faults[0].where == pointer


@given(st.text(min_size=1, max_size=60))
def test_every_name_makes_a_slug(name: str) -> None:
    assert slugify(name)
    assert slugify(name) == slugify(name)
