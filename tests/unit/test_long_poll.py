"""How long a request is ready to wait, by its ``Prefer`` header (RFC 7240)."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from web.long_poll import MAX_WAIT_S, applied, wait_s


def request(*prefer: str) -> Request:
    headers = [(b"prefer", value.encode("latin-1")) for value in prefer]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), 0),
        (("wait=30",), 30),
        (("Wait=30",), 30),
        (('wait="5"',), 5),
        (("wait = 7",), 7),
        (("respond-async, wait=10",), 10),
        (("respond-async", "wait=10"), 10),
        (("wait=10; foo=bar",), 10),
        (("wait=1, wait=9",), 1),
        (("wait=0",), 0),
        (("wait=-1",), 0),
        (("wait=1.5",), 0),
        (("wait",), 0),
        (("wait=soon",), 0),
        (("wait=²",), 0),
        (("waiting=3",), 0),
        (("return=minimal; wait=3",), 0),
        (("wait=61",), MAX_WAIT_S),
        (("wait=" + "9" * 5000,), MAX_WAIT_S),
        ((" , ;;, =,wait=2",), 2),
    ],
)
def test_seconds(headers: tuple[str, ...], seconds: int) -> None:
    assert wait_s(request(*headers)) == seconds
    assert applied(request(*headers)) == ({"Preference-Applied": f"wait={seconds}"} if seconds else {})
