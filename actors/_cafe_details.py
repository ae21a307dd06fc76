"""What a café's row keeps of a place's details."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from actors._places import Period, Place

DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
PRICE_LEVELS: Final = {
    "PRICE_LEVEL_FREE": 0,
    "PRICE_LEVEL_INEXPENSIVE": 1,
    "PRICE_LEVEL_MODERATE": 2,
    "PRICE_LEVEL_EXPENSIVE": 3,
    "PRICE_LEVEL_VERY_EXPENSIVE": 4,
}
#: Characters of an address on the web.
URL_CHARS: Final = 2_000


def details_of(place: Place) -> dict[str, Any]:
    """Parameters of :func:`models.cafes.store_details`, without those that say which café it is."""
    return {
        "operational": is_operational(place),
        "new_address": place.address,
        "new_latitude": place.location.latitude if place.location else None,
        "new_longitude": place.location.longitude if place.location else None,
        "new_rating": place.rating,
        "new_review_count": place.rating_count,
        "new_price_level": PRICE_LEVELS.get(place.price_level or ""),
        "new_opening_hours": week(place.hours.periods) if place.hours else None,
        "new_website": web_address(place.website, query=False),
        "new_links": {name: url for name, url in links(place).items() if url is not None},
        "new_source_place_id": place.id,
    }


def is_operational(place: Place) -> bool:
    """Whether it is in business; a provider that says nothing of it does not close a café."""
    return place.business_status in (None, "OPERATIONAL")


def links(place: Place) -> dict[str, str | None]:
    """Addresses as they were given, for who wants to follow them."""
    return {"website": web_address(place.website, query=True), "maps": web_address(place.maps_url, query=True)}


def web_address(url: str | None, *, query: bool) -> str | None:
    """A clean ``http`` or ``https`` address: host in lower case, no user name, no fragment.

    Args:
      query: keep the query; without it origin and path are left, which is what stays the same between campaigns.

    Returns: None for what is no such address.
    """
    if url is None or len(url) > URL_CHARS or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{port}" if port is not None else host
    return urlunsplit((parts.scheme, place, parts.path or "/", parts.query if query else "", ""))


def week(periods: Iterable[Period]) -> dict[str, list[list[str]]]:
    """Opening hours by weekday, Monday first: ``{"mon": [["08:00", "12:00"], ["14:00", "18:00"]]}``.

    Hours past midnight belong to the day on which the place opened. One period without an end is a place that never
    closes.
    """
    hours: dict[str, list[list[str]]] = {}
    for period in periods:
        if period.close is None:
            return {day: [["00:00", "24:00"]] for day in (*DAYS[1:], DAYS[0])}
        opens, closes = period.open, period.close
        hours.setdefault(DAYS[opens.day], []).append(
            [f"{opens.hour:02}:{opens.minute:02}", f"{closes.hour:02}:{closes.minute:02}"]
        )
    return {day: sorted(hours[day]) for day in (*DAYS[1:], DAYS[0]) if day in hours}
