"""Believable cafés for development: the same ones every time, and what the local places provider knows of them."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import Engine, func, select

from models import cafes
from models.arrays import parameters
from models.cafes import CafeStatus
from models.engine import transaction
from models.tenancy import DEFAULT_TENANT


class City(NamedTuple):
    """Where cafés are: centre in degrees, some of its streets and houses, separated by commas."""

    name: str
    country: str
    code: str
    latitude: float
    longitude: float
    postcode: str
    streets: str
    houses: str


CITIES: Final = (
    City(
        "Vienna",
        "Austria",
        "AT",
        48.2082,
        16.3738,
        "1070",
        "Lindengasse, Burggasse, Neubaugasse, Zollergasse, Kirchengasse",
        "Café Morgenrot, Kaffee am Spittelberg, Zum Kleinen Braunen, Mokka & Mehl, Café Lindenblatt, Röstzeit",
    ),
    City(
        "Graz",
        "Austria",
        "AT",
        47.0707,
        15.4395,
        "8010",
        "Sporgasse, Herrengasse, Leonhardstraße, Griesgasse",
        "Murkaffee, Café Schlossberg, Bohnenfest, Omas Stube, Kaffee Süd",
    ),
    City(
        "Berlin",
        "Germany",
        "DE",
        52.52,
        13.405,
        "10999",
        "Oranienstraße, Reichenberger Straße, Weserstraße, Kastanienallee",
        "Nordlicht Rösterei, Café Hinterhof, Zweite Tasse, Tante Käthe, Kanal Kaffee, Mahlwerk",
    ),
    City(
        "Munich",
        "Germany",
        "DE",
        48.1351,
        11.582,
        "80799",
        "Türkenstraße, Schellingstraße, Amalienstraße, Gärtnerplatz",
        "Isarperle, Café Glockenbach, Drei Bohnen, Stadtcafé Süd, Frühstückerei",
    ),
    City(
        "Lisbon",
        "Portugal",
        "PT",
        38.7223,
        -9.1393,
        "1200-109",
        "Rua da Rosa, Rua do Século, Rua das Flores, Calçada do Combro",
        "Bica do Bairro, Pastelaria Alegria, Café da Colina, Torra Lenta, Miradouro Café",
    ),
    City(
        "Porto",
        "Portugal",
        "PT",
        41.1579,
        -8.6291,
        "4050-253",
        "Rua do Almada, Rua de Cedofeita, Rua de Ceuta",
        "Café Ribeira, Cimbalino, A Padaria Azul, Douro Coffee, Esquina do Almada",
    ),
    City(
        "Madrid",
        "Spain",
        "ES",
        40.4168,
        -3.7038,
        "28004",
        "Calle del Pez, Calle de Fuencarral, Calle de la Palma, Calle Luna",
        "Café Malasaña, Tostadero Luna, La Taza Lenta, Ojalá Café, El Molinillo",
    ),
    City(
        "Copenhagen",
        "Denmark",
        "DK",
        55.6761,
        12.5683,
        "2200",
        "Jægersborggade, Elmegade, Blågårdsgade, Istedgade",
        "Risteriet, Kaffe & Kanel, Nørrebro Brew, Den Blå Kop, Hygge Hjørnet",
    ),
    City(
        "Amsterdam",
        "Netherlands",
        "NL",
        52.3676,
        4.9041,
        "1015",
        "Prinsengracht, Haarlemmerdijk, Eerste Tuindwarsstraat",
        "Koffie aan de Gracht, De Branderij, Café Jordaan, Zwart Goud, Twee Kopjes",
    ),
    City(
        "Prague",
        "Czechia",
        "CZ",
        50.0755,
        14.4378,
        "120 00",
        "Krymská, Mánesova, Francouzská, Slezská",
        "Kavárna Na Rohu, Pražírna Sever, Café Lounka, Modrá Konvice, Dvě Zrnka",
    ),
    City(
        "Budapest",
        "Hungary",
        "HU",
        47.4979,
        19.0402,
        "1075",
        "Kazinczy utca, Dob utca, Király utca, Wesselényi utca",
        "Fekete Kávé, Kazimír Kávézó, Pörkölő Sarok, Reggeli Café, Duna Espresso",
    ),
    City(
        "Ljubljana",
        "Slovenia",
        "SI",
        46.0569,
        14.5058,
        "1000",
        "Trubarjeva cesta, Stari trg, Gornji trg, Eipprova ulica",
        "Kavarna Trnovo, Zrno do Zrna, Pražarna Grad, Stara Skodelica, Kava pod Lipo",
    ),
)
#: Houses of one name in a city; all but the first are called after their street too.
_HOUSES: Final = 4
#: Share of cafés that were published before, that have closed, and whose place id is not known.
_PUBLISHED, _CLOSED, _UNKNOWN_PLACE = 0.3, 0.06, 0.1
#: Share of second and further houses that do not exist.
_MISSING: Final = 0.15
_PRICES: Final = ("PRICE_LEVEL_INEXPENSIVE", "PRICE_LEVEL_MODERATE", "PRICE_LEVEL_MODERATE", "PRICE_LEVEL_EXPENSIVE")


@dataclass(frozen=True)
class Seed:
    """One café: its row as imported, and its place as the provider knows it."""

    row: dict[str, Any]
    city: dict[str, str]
    place: dict[str, Any]


@cache
def seeds() -> tuple[Seed, ...]:
    """Some 200 cafés in 12 cities."""
    dice = random.Random(2026)
    found = []
    for city in CITIES:
        for name in city.houses.split(", "):
            streets = dice.sample(city.streets.split(", "), min(_HOUSES, city.streets.count(", ") + 1))
            for number, street in enumerate(streets):
                if number and dice.random() < _MISSING:
                    continue
                found.append(
                    _seed(dice, city, f"{name} {street}" if number else name, f"{street} {dice.randint(1, 90)}")
                )
    return tuple(found)


def _seed(dice: random.Random, city: City, name: str, street: str) -> Seed:
    city_slug, slug = slugify(city.name), slugify(name)
    place_id = f"place_{city_slug}_{slug}".replace("-", "_")
    closed = dice.random() < _CLOSED
    place = {
        "id": place_id,
        "displayName": {"text": name, "languageCode": "en"},
        "formattedAddress": f"{street}, {city.postcode} {city.name}, {city.country}",
        "location": {
            "latitude": round(city.latitude + dice.uniform(-0.02, 0.02), 6),
            "longitude": round(city.longitude + dice.uniform(-0.03, 0.03), 6),
        },
        "businessStatus": dice.choice(["CLOSED_PERMANENTLY", "CLOSED_TEMPORARILY"]) if closed else "OPERATIONAL",
        "rating": round(dice.uniform(3.6, 4.9), 1),
        "userRatingCount": dice.randint(12, 2400),
        "priceLevel": dice.choice(_PRICES),
        "regularOpeningHours": {"periods": _periods(dice)},
        "websiteUri": f"https://www.{slug}-{city_slug}.example/?utm_source=maps&utm_medium=organic",
        "googleMapsUri": f"https://maps.example/?cid={dice.randint(10**15, 10**16)}",
    }
    row = {
        "id": uuid5(NAMESPACE_URL, f"callboard:cafe:{city_slug}:{slug}"),
        "name": name,
        "slug": slug,
        "city_slug": city_slug,
        "address": None,
        "status": CafeStatus.PUBLISHED if dice.random() < _PUBLISHED else CafeStatus.NEW,
        "source": "seed",
        "source_place_id": None if dice.random() < _UNKNOWN_PLACE else place_id,
    }
    return Seed(row, {"slug": city_slug, "name": city.name, "country_code": city.code}, place)


def _periods(dice: random.Random) -> list[dict[str, Any]]:
    """A usual week; some rest on Monday, some stay open past midnight on weekends."""
    opens, closes = dice.choice([7, 8, 9]), dice.choice([17, 18, 20])
    rests, late = dice.random() < 0.3, dice.random() < 0.2
    week = []
    for day in range(7):
        if day == 1 and rests:
            continue
        close = {"day": (day + 1) % 7, "hour": 1, "minute": 0} if late and day in (5, 6) else {
            "day": day, "hour": closes, "minute": 30
        }  # fmt: skip
        week.append({"open": {"day": day, "hour": opens, "minute": 0}, "close": close})
    return week


def slugify(name: str) -> str:
    """``Kaffee am Spittelberg`` → ``kaffee-am-spittelberg``."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("ø", "o").replace("æ", "ae"))
    return re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower()).strip("-")


def plant(engine: Engine, tenant_id: str = DEFAULT_TENANT) -> int:
    """Import the seed unless the tenant has cafés already; returns how many cafés were made."""
    with transaction(engine).begin() as connection:
        there = select(func.count()).select_from(cafes.cafes).where(cafes.cafes.c.tenant_id == tenant_id)
        if connection.execute(there).scalar_one():
            return 0
        rows = [{**seed.row, "id": _id_for(tenant_id, seed.row["id"])} for seed in seeds()]
        towns = list({seed.city["slug"]: seed.city for seed in seeds()}.values())
        city_names, cafe_names = ("slug", "name", "country_code"), tuple(rows[0])
        values = {"tenant": tenant_id, **parameters("city", **cafes.as_lists(towns, city_names))}
        connection.execute(cafes.import_cities(), values)
        values = {"tenant": tenant_id, **parameters("cafe", **cafes.as_lists(rows, cafe_names))}
        return len(connection.execute(cafes.import_cafes(), values).all())


def _id_for(tenant_id: str, cafe_id: UUID) -> UUID:
    return cafe_id if tenant_id == DEFAULT_TENANT else uuid5(cafe_id, tenant_id)
