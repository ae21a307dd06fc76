"""A places provider for development: details and text search of the seeded cafés, as Google's API has them.

It can be made to fail: ``PUT /faults`` with shares from 0 to 1, ``{"error": 0.2, "garbage": 0.1, "limit": 0.1,
"slow_ms": 500}``; which request fails is decided by its number, so that a run can be repeated.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dev.service import Ports, Service

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


def _variables(ports: Ports, secret: str) -> dict[str, str]:
    return {"CALLBOARD_PLACES_URL": f"http://127.0.0.1:{ports['http']}", "CALLBOARD_PLACES_KEY": secret}


SERVICE = Service(
    name="places",
    setting="CALLBOARD_PLACES_URL",
    ports=("http",),
    variables=_variables,
    up_json=lambda ports: {"places_url": f"http://127.0.0.1:{ports['http']}"},
    label="Places",
    banner=lambda ports: f"http://127.0.0.1:{ports['http']} (local places provider)",
)

#: Seconds that the provider asks to be left alone when it has had too many requests.
RETRY_AFTER_S = 1


class Provider:
    """What it knows, whom it answers, and what goes wrong."""

    def __init__(self, places: list[dict[str, Any]], key: str) -> None:
        self.places = {place["id"]: place for place in places}
        self.key = key
        self.faults: dict[str, float] = {}
        self.requests = 0

    async def details(self, request: Request) -> Response:
        """``GET /v1/places/{id}``."""
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        place = self.places.get(request.path_params["place_id"])
        if place is None:
            return _error(404, "NOT_FOUND", "The Place ID is no longer valid.")
        return _json(_masked(place, request.headers["x-goog-fieldmask"]))

    async def search(self, request: Request) -> Response:
        """``POST /v1/places:searchText``: places all of whose words, or whose name, are in the text."""
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        text = str((await request.json()).get("textQuery", "")).casefold()
        found = [
            place
            for place in self.places.values()
            if place["displayName"]["text"].casefold() in text and _town(place) in text
        ]
        found.sort(key=lambda place: -len(place["displayName"]["text"]))
        mask = request.headers["x-goog-fieldmask"].replace("places.", "")
        return _json({"places": [_masked(place, mask) for place in found[:1]]})

    async def set_faults(self, request: Request) -> Response:
        """``PUT /faults``."""
        self.faults = {name: float(share) for name, share in (await request.json()).items()}
        return _json(self.faults)

    async def _refusal(self, request: Request) -> Response | None:
        import asyncio

        from starlette.responses import PlainTextResponse

        if request.headers.get("x-goog-api-key") != self.key:
            return _error(403, "PERMISSION_DENIED", "The key is not valid.")
        if not request.headers.get("x-goog-fieldmask"):
            return _error(400, "INVALID_ARGUMENT", "FieldMask is a required parameter.")
        self.requests += 1
        if delay_ms := self.faults.get("slow_ms"):
            await asyncio.sleep(delay_ms / 1000)
        # A fraction that jumps about evenly: 20 % of any stretch of requests fail, never one and the same for ever.
        roll = self.requests * 0.6180339887498949 % 1
        for name in ("error", "garbage", "limit"):
            share = self.faults.get(name, 0.0)
            if roll < share:
                if name == "error":
                    return _error(503, "UNAVAILABLE", "The service is currently unavailable.")
                if name == "garbage":
                    return PlainTextResponse("<html>it works!</html>", media_type="application/json")
                answer = _error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.")
                answer.headers["Retry-After"] = str(RETRY_AFTER_S)
                return answer
            roll -= share
        return None

    def app(self) -> Starlette:
        """The provider as an application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/v1/places:searchText", self.search, methods=["POST"]),
                Route("/v1/places/{place_id}", self.details),
                Route("/faults", self.set_faults, methods=["PUT"]),
            ]
        )


def _town(place: dict[str, Any]) -> str:
    """The city in ``Street 1, 1070 Vienna, Austria``."""
    middle: str = place["formattedAddress"].split(", ")[-2]
    return middle.rsplit(" ", maxsplit=1)[-1].casefold()


def _masked(place: dict[str, Any], mask: str) -> dict[str, Any]:
    wanted = mask.split(",")
    return place if "*" in wanted else {name: value for name, value in place.items() if name in wanted}


def _json(content: Any) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content)


def _error(code: int, status: str, message: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": {"code": code, "message": message, "status": status}}, code)


def main(port: int) -> None:
    """Plant the cafés where there are none, then answer."""
    import uvicorn

    from dev.cafe_seed import plant, seeds
    from dev.home import Home
    from models.engine import make_engine
    from models.settings import get_settings

    engine = make_engine(get_settings(), pool_size=0)
    if planted := plant(engine):
        print(f"{planted} cafés planted", flush=True)
    engine.dispose()
    provider = Provider([seed.place for seed in seeds()], Home().secret(SERVICE.name))
    uvicorn.run(provider.app(), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
