"""A client of the places provider: place details and text search in the shape of the Google Places API, version 1."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.runtime.errors import PermanentError, Snooze
from actors.runtime.retry_after import retry_after_ms
from models.errors import CallboardError
from models.json_data import clean_text, loads
from models.settings import get_settings

#: Seconds for one whole request, and for the connection.
TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 3.0
#: Bytes of one answer.
MAX_BYTES: Final = 1024 * 1024
#: Milliseconds to wait when the provider says "too many requests" and not how long.
PAUSE_MS: Final = 30_000
#: What is asked for; Google bills by field.
FIELDS: Final = (
    "id,displayName,formattedAddress,location,businessStatus,rating,userRatingCount,priceLevel,regularOpeningHours,"
    "websiteUri,googleMapsUri"
)


class ProviderFailed(CallboardError):
    """The places provider did not answer as it should."""


class _Loose(BaseModel):
    """What the provider adds to its answers is no concern of ours."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Text(_Loose):
    """A text in some language."""

    text: str = Field(min_length=1, max_length=500)


class Location(_Loose):
    """Degrees, WGS 84."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class Moment(_Loose):
    """A minute of the week; day 0 is Sunday."""

    day: int = Field(ge=0, le=6)
    hour: int = Field(0, ge=0, le=24)
    minute: int = Field(0, ge=0, le=59)


class Period(_Loose):
    """From opening to closing; without a close the place never closes."""

    open: Moment
    close: Moment | None = None


class Hours(_Loose):
    """A usual week."""

    periods: tuple[Period, ...] = Field((), max_length=100)


M = TypeVar("M", bound=_Loose)


class Place(_Loose):
    """Place details; everything but the id and the name may be missing."""

    id: str = Field(min_length=1, max_length=300)
    name: Text = Field(alias="displayName")
    address: str | None = Field(None, alias="formattedAddress", max_length=1000)
    location: Location | None = None
    business_status: str | None = Field(None, alias="businessStatus")
    rating: float | None = Field(None, ge=1, le=5)
    rating_count: int | None = Field(None, alias="userRatingCount", ge=0, lt=2**31)
    price_level: str | None = Field(None, alias="priceLevel")
    hours: Hours | None = Field(None, alias="regularOpeningHours")
    website: str | None = Field(None, alias="websiteUri")
    maps_url: str | None = Field(None, alias="googleMapsUri")


class _Found(_Loose):
    places: tuple[Place, ...] = Field((), max_length=100)


def place_details(place_id: str) -> Place:
    """``GET /v1/places/{place_id}``.

    Raises:
      PermanentError: the provider knows no such place, or takes our key for none.
      Snooze: it has had too many requests; the attempt is given back.
      ProviderFailed: anything else than a place; worth another try.
    """
    place = _parsed(Place, _request("GET", f"/v1/places/{quote(place_id, safe='')}", FIELDS))
    if place.id != place_id:
        raise ProviderFailed("the places provider answered with another place than was asked for")
    return place


def find_place(text: str) -> Place | None:
    """``POST /v1/places:searchText``: the best match for a name with its city, or None. Raises as above."""
    fields = ",".join(f"places.{name}" for name in FIELDS.split(","))
    answer = _request("POST", "/v1/places:searchText", fields, {"textQuery": text, "pageSize": 1})
    found = _parsed(_Found, answer).places
    return found[0] if found else None


def _parsed(model: type[M], answer: Any) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        fault = error.errors()[0]
        where = "/".join(str(part) for part in fault["loc"]) or "the whole"
        text = f"the places provider answered with something that is no place: {where}: {fault['msg']}"
        raise ProviderFailed(clean_text(text, 500)) from None


def _request(method: str, path: str, fields: str, body: Any = None) -> Any:
    import httpx  # the worker extra; senders do not need it

    settings = get_settings()
    if not settings.places_url:
        raise PermanentError("CALLBOARD_PLACES_URL is not set: there is no places provider to ask")
    # The key travels in a header: an address ends in logs, errors and pictures' links.
    headers = {"X-Goog-FieldMask": fields, "Accept": "application/json"}
    if settings.places_key:
        headers["X-Goog-Api-Key"] = settings.places_key
    url = settings.places_url.rstrip("/") + path
    timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    deadline = monotonic() + TIMEOUT_S
    content = bytearray()
    try:
        with (
            httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False) as client,
            client.stream(method, url, headers=headers, json=body) as response,
        ):
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ProviderFailed(f"the places provider's answer is larger than {MAX_BYTES:,} bytes")
                if monotonic() > deadline:
                    raise ProviderFailed(f"the places provider's answer took longer than {TIMEOUT_S:g} s")
            status, retry_after = response.status_code, response.headers.get("retry-after")
    except httpx.HTTPError as error:
        raise ProviderFailed(f"the places provider cannot be reached: {type(error).__name__}") from error
    if status == 200:
        try:
            return loads(bytes(content))
        except CallboardError as error:
            raise ProviderFailed(f"the places provider answered with something that is no JSON: {error}") from None
    _refuse(status, retry_after, path)
    return None


def _refuse(status: int, retry_after: str | None, path: str) -> None:
    said = f"the places provider answered {status}"
    if status == 429:
        pause_ms = retry_after_ms(retry_after, datetime.now(UTC))
        raise Snooze(PAUSE_MS if pause_ms is None else pause_ms, f"{said}: too many requests")
    if status == 404:
        raise PermanentError(f"the places provider knows no {clean_text(path.removeprefix('/v1/'), 200)}")
    if status in (401, 403):
        raise PermanentError(f"{said}: CALLBOARD_PLACES_KEY is wrong or may not be used for this")
    if status == 400:
        raise PermanentError(f"{said}: it does not understand the question")
    raise ProviderFailed(said)
