"""Reading a file of cafés: CSV with a header, or JSON ``{"cafes": [...]}``."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zlib
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from actors.runtime.identifiers import new_id
from models.cafes import CafeStatus
from models.json_data import clean_text, loads
from web.problems import Fault, Problem

#: Rows and bytes of one import; all of it is one transaction.
MAX_ROWS: Final = 5_000
MAX_BYTES: Final = 8 * 1024 * 1024
#: Faults of one import that are named.
_NAMED: Final = 20

_Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]


class ImportedCafe(BaseModel):
    """One café of a file; columns of a CSV have the same names."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    name: _Line
    city: _Line = Field(description="the city's name; its slug is made from it")
    country_code: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2")
    address: _Line | None = None
    slug: str | None = Field(None, pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=200)
    status: CafeStatus = CafeStatus.NEW
    source_place_id: _Line | None = None


def read_import(media_type: str, body: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cities and cafés as rows for :mod:`models.cafes`.

    Raises:
      Problem: 415 another content type, 409 a café that stands there twice, 422 with a pointer per fault.
      DataRefused: it is no JSON that can be kept.
    """
    if media_type == "application/json":
        document = loads(body)
        given = document.get("cafes") if isinstance(document, dict) else None
        if not isinstance(document, dict) or set(document) != {"cafes"} or not isinstance(given, list):
            raise _refused([Fault("/cafes", "must be a list, and nothing else may stand beside it")])
        records: list[Any] = given
    elif media_type == "text/csv":
        records = _records(body)
    else:
        raise Problem(
            415, "The body must be application/json or text/csv; nothing was stored.", slug="not-cafes",
            headers={"Accept-Post": "application/json, text/csv"},
        )  # fmt: skip
    if not 1 <= len(records) <= MAX_ROWS:
        raise _refused([Fault("/cafes", f"must hold 1 to {MAX_ROWS:,} cafés")])
    return _rows(records)


def _records(body: bytes) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        records = [{k: v for k, v in row.items() if v != ""} for row in islice(reader, MAX_ROWS + 1)]
    except UnicodeDecodeError as error:
        raise _refused([Fault("", f"is not valid UTF-8 at byte {error.start}")]) from None
    except csv.Error as error:
        raise _refused([Fault("", f"is not valid CSV: {error}")]) from None
    for number, row in enumerate(records):
        if None in row or None in row.values():
            raise _refused([Fault(f"/cafes/{number}", "has more or fewer fields than the header")])
    return records


def _rows(records: list[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    cities: dict[str, dict[str, Any]] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    faults: list[Fault] = []
    twice: Fault | None = None
    for number, record in enumerate(records):
        where = f"/cafes/{number}"
        try:
            cafe = ImportedCafe.model_validate(record, by_name=False, by_alias=True)
        except ValidationError as error:
            faults += [_fault(where, found) for found in error.errors()]
            continue
        city_slug, slug = slugify(cafe.city), cafe.slug or slugify(cafe.name)
        if (city_slug, slug) in rows:
            twice = twice or Fault(where, f"is the same café as an earlier one: {city_slug}/{slug}")
        cities.setdefault(city_slug, {"slug": city_slug, "name": cafe.city, "country_code": cafe.country_code})
        rows[city_slug, slug] = {
            "id": new_id(),
            "name": cafe.name,
            "slug": slug,
            "city_slug": city_slug,
            "address": cafe.address,
            "status": cafe.status,
            "source": "import",
            "source_place_id": cafe.source_place_id,
        }
    if faults:
        raise _refused(faults)
    if twice is not None:
        detail = f"{twice.where}: {twice.detail}; nothing was stored."
        raise Problem(409, detail, slug="cafe-twice", faults=[twice])
    return list(cities.values()), list(rows.values())


def _fault(where: str, found: Mapping[str, Any]) -> Fault:
    path = "".join(f"/{clean_text(part, 100)}" for part in found["loc"])
    return Fault(where + path, found["msg"])


def _refused(faults: list[Fault]) -> Problem:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    detail = f"{faults[0].where or 'The body'}: {faults[0].detail}{more}; nothing was stored."
    return Problem(422, detail, slug="refused", faults=faults[:_NAMED])


def slugify(name: str) -> str:
    """``Kaffee am Spittelberg`` → ``kaffee-am-spittelberg``; what has no Latin form at all gets a number of its own."""
    plain = name.replace("ß", "ss").replace("ø", "o").replace("Ø", "O").replace("æ", "ae").replace("Æ", "Ae")
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:200]
    return slug or f"x{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
