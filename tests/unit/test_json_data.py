"""What can be kept as JSON and what is refused, with which pointer."""

from __future__ import annotations

import enum
import json
import math
import sys
import time
from collections import OrderedDict, UserDict, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import DataRefused
from models.json_data import MAX_ARGS_BYTES, MAX_CONTAINERS, MAX_DEPTH, clean_text, encode, encode_result, loads

pytestmark = pytest.mark.unit

text = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
leaves = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**300) + 1, max_value=10**300 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
keepable = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=40)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def refused(value: object, **limits: int) -> DataRefused:
    with pytest.raises(DataRefused) as caught:
        encode(value, **{"max_bytes": MAX_ARGS_BYTES, **limits})
    str(caught.value).encode()  # the refusal itself can always be stored and shown
    caught.value.pointer.encode()
    assert "\0" not in str(caught.value)
    return caught.value


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Metres(float):
    def __repr__(self) -> str:
        return f"{float(self)} m"


@settings(deadline=None)
@given(keepable)
def test_what_is_kept_reads_back_equal(value: object) -> None:
    written = encode(value, max_bytes=10**9)
    assert written == json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    assert json.loads(written) == value
    assert loads(written) == value
    assert loads(written.encode()) == value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Colour.RED, '"red"'),
        (Level.HIGH, "3"),
        (Point(1, 2), "[1,2]"),
        (Metres(1.5), "1.5"),
        (OrderedDict(a=1), '{"a":1}'),
        (defaultdict(int, a=1), '{"a":1}'),
        ({1: "a", None: "b", 2.5: "c", False: "d"}, '{"1":"a","null":"b","2.5":"c","false":"d"}'),
        ({Colour.RED: 1, Level.HIGH: 2}, '{"red":1,"3":2}'),
        ((), "[]"),
        ({}, "{}"),
        ([[], {}, [[]]], "[[],{},[[]]]"),
        ({"a": {"b": 1}, "c": [1, {"d": 2}, 3]}, '{"a":{"b":1},"c":[1,{"d":2},3]}'),
        ('\\u0000 "quoted" \n\x1f\x7f\u2028', '"\\\\u0000 \\"quoted\\" \\n\\u001f\x7f\u2028"'),
        (10**300 - 1, "9" * 300),
        (-0.0, "-0.0"),
        ("😀", '"😀"'),
    ],
)
def test_written_form(value: object, written: str) -> None:
    assert encode(value, max_bytes=MAX_ARGS_BYTES) == written


@pytest.mark.parametrize(
    ("value", "pointer", "reason"),
    [
        ("a\0b", "", "NUL"),
        ({"a": ["x", "\0"]}, "/a/1", "NUL"),
        ({"a": {"k\0": 1}}, "/a/k", "NUL"),
        (["\ud800"], "/0", "lone surrogate"),
        ({"\udfff": 1}, "/\ufffd", "lone surrogate"),
        ({"a/b~c": [float("nan")]}, "/a~1b~0c/0", "NaN"),
        ([math.inf], "/0", "Infinity"),
        ([-math.inf], "/0", "Infinity"),
        ([1e308 * 10], "/0", "Infinity"),
        ({"n": 10**300}, "/n", "300 digits"),
        ({"n": -(10**300)}, "/n", "300 digits"),
        ({"n": 10**5000}, "/n", "300 digits"),
        ({"n": 1 << 10_000_000}, "/n", "300 digits"),
        ({10**5000: 1}, "", "300 digits"),
        ({math.nan: 1}, "", "NaN"),
        ([1, {2}], "/1", "type set"),
        ([b"x"], "/0", "type bytes"),
        ([datetime.now(UTC)], "/0", "type datetime"),
        ([Decimal(1)], "/0", "type Decimal"),
        ([object()], "/0", "type object"),
        ([UserDict()], "/0", "type UserDict"),
        ({"a": {(1, 2): 3}}, "/a", "type tuple cannot be a key"),
        ({"a": {1: 2, "1": 3}}, "/a/1", "two keys"),
        ({"true": 2, True: 3}, "/true", "two keys"),
        ({None: 2, "null": 3}, "/null", "two keys"),
    ],
)
def test_refused(value: object, pointer: str, reason: str) -> None:
    fault = refused(value)
    assert fault.pointer == pointer
    assert reason in fault.reason


def test_depth_is_bounded_at_the_limit() -> None:
    assert encode(nested(MAX_DEPTH), max_bytes=MAX_ARGS_BYTES) == "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert refused(nested(MAX_DEPTH + 1)).pointer == "/0" * MAX_DEPTH
    assert "deeper than 64" in refused(nested(100_000)).reason
    assert refused([[[1]]], max_depth=2).pointer == "/0/0"


def test_a_container_that_holds_itself_is_too_deep() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "deeper" in refused(loop).reason
    ring: dict[str, object] = {}
    ring["me"] = [ring]
    assert refused(ring).pointer.startswith("/me/0/me/0")


def test_a_small_object_that_writes_large_is_stopped_early() -> None:
    bomb: list[object] = []
    for _ in range(50):
        bomb = [bomb, bomb]  # 2 ** 50 lists when written
    started = time.monotonic()
    assert "larger than 1,048,576 bytes" in refused(bomb).reason
    assert time.monotonic() - started < 10


def test_size_counts_utf8_bytes() -> None:
    assert encode("é" * 4, max_bytes=10) == '"éééé"'
    assert "larger than 9 bytes" in refused("é" * 4, max_bytes=9).reason
    assert encode([[], []], max_bytes=7) == "[[],[]]"
    assert "larger" in refused([[], []], max_bytes=6).reason
    assert refused("x" * MAX_ARGS_BYTES).pointer == ""


def test_a_container_that_cannot_be_read_is_refused() -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("\0 broken \ud800")

    assert "RuntimeError" in refused([Broken(a=1)]).reason


def kept_or_refused(raw: bytes) -> None:
    try:
        value = loads(raw)
    except DataRefused as fault:
        str(fault).encode()
    else:
        encode(value, max_bytes=sys.maxsize)


@settings(deadline=None)
@given(st.binary())
@example(b"]" * 100 + b"[" * 100)
@example(b"\xef\xbb\xbf{}")
@example("{}".encode("utf-16"))
@example(b"")
def test_loads_raises_nothing_else(raw: bytes) -> None:
    kept_or_refused(raw)


@pytest.mark.parametrize(
    "piece",
    [b"[", b'{"a":', b'["\\', b'\\"', b'"\\"', b'"', b"\\", b"[]", b"1", b"-1.5e", b"[1e400,", b'"\\ud83d'],
    ids=repr,
)
def test_loads_takes_linear_time_and_raises_nothing_else(piece: bytes) -> None:
    started = time.monotonic()
    kept_or_refused(piece * 200_000)
    kept_or_refused(b"[" + piece * 200_000)
    kept_or_refused(b'["' + piece * 200_000)
    assert time.monotonic() - started < 20  # quadratic would be hours


@settings(deadline=None)
@given(st.text(alphabet='[]{}",:\\ \n\0u0123dD8fF9eE+-.ntrabcls\ud800é', max_size=60))
def test_loads_raises_nothing_else_on_text(raw: str) -> None:
    try:
        value = loads(raw)
    except DataRefused:
        return
    assert value == json.loads(raw)


@settings(deadline=None)
@given(st.text(alphabet='[]{}",:\\ 12eE-NaIfity', max_size=40))
def test_loads_is_never_laxer_than_json(raw: str) -> None:
    try:
        value = loads(raw)
    except DataRefused:
        return
    assert json.loads(raw) == value


@pytest.mark.parametrize(
    ("raw", "pointer", "reason"),
    [
        (b'{"a":\xff}', "", "not valid UTF-8 at byte 5"),
        (b'{"a":"\xed\xa0\x80"}', "", "not valid UTF-8"),
        (b'{"a":\n 1,}', "", "line 2 column 4"),
        (b"", "", "line 1 column 1"),
        (b'{"a":1} x', "", "Extra data"),
        (b"{'a':1}", "", "not valid JSON"),
        (b'{"a":"\x00"}', "", "Invalid control character"),
        (b'{"a":[NaN]}', "/a/0", "NaN"),
        (b"-Infinity", "", "Infinity"),
        (b'{"a":1e400}', "/a", "Infinity"),
        (b'{"a":' + b"1" * 301 + b"}", "/a", "300 digits"),
        (b'{"a":-' + b"1" * 5000 + b"}", "/a", "300 digits"),
        (b'{"a":{"x/y":1,"x/y":2}}', "/a/x~1y", "twice"),
        (b'{"a":"\\u0000"}', "/a", "NUL"),
        (b'{"a\\u0000":1}', "/a", "NUL"),
        (b'{"a":"\\ud800"}', "/a", "lone surrogate"),
        (b'{"a":["\\udc00\\ud800"]}', "/a/0", "lone surrogate"),
        (b'{"\\ud800":1,"\\ud800":2}', "/\ufffd", "twice"),
        (b"[" * 65 + b"]" * 65, "", "deeper than 64"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "", "deeper than 64"),
        ("[1" + "\ud800", "", "not valid JSON"),
        ('["\ud800"]', "/0", "lone surrogate"),
    ],
)
def test_loads_refuses(raw: bytes | str, pointer: str, reason: str) -> None:
    with pytest.raises(DataRefused) as caught:
        loads(raw)
    assert caught.value.pointer == pointer
    assert reason in caught.value.reason
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
        (b'{"a":"\\"' + b"[" * 1000 + b'"}', {"a": '"' + "[" * 1000}),
        (b'"' + b"1" * 400 + b'"', "1" * 400),
        (b"-" + b"1" * 300, -int("1" * 300)),
        (b"0." + b"1" * 400, float("0." + "1" * 400)),
        (b" [1, 2]\n", [1, 2]),
        (b"[" + b"[]," * 1000 + b"[]]", [[]] * 1001),
        (b"[" * 64 + b"]" * 64, nested(64)),
    ],
)
def test_loads_accepts(raw: bytes, value: object) -> None:
    assert loads(raw) == value


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("value", "limit", "cleaned"),
    [
        ("plain", 10, "plain"),
        ("a\0b", 10, "ab"),
        ("a\ud800b", 10, "a\ufffdb"),
        ("abcdef", 4, "abc…"),
        ("abcd", 4, "abcd"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("é\udfff" * 3, 3, "é\ufffd…"),
        (ValueError("x\0"), 10, "x"),
        (Mute(), 100, "<Mute that cannot be shown as text>"),
        (Colour.RED, 10, "red"),
        (None, 10, "None"),
    ],
)
def test_clean_text(value: object, limit: int, cleaned: str) -> None:
    assert clean_text(value, limit) == cleaned
    assert type(clean_text(value, limit)) is str


def test_clean_text_of_an_integer_that_python_will_not_print() -> None:
    assert clean_text(10**5000, 100) == "<int that cannot be shown as text>"


@settings(deadline=None)
@given(st.text(), st.integers(0, 20))
def test_cleaned_text_can_be_kept(value: str, limit: int) -> None:
    cleaned = clean_text(value, limit)
    assert len(cleaned) <= limit
    encode(cleaned, max_bytes=1000)


def test_encode_result_never_raises() -> None:
    class Broken(list[int]):
        def __iter__(self) -> Any:
            raise KeyError("\ud800")

    assert encode_result({"a": 1}) == ('{"a":1}', None)
    kept, why = encode_result({"a": {1, 2}})
    assert kept is None
    assert why == "a value of type set is not JSON (at /a)"
    assert encode_result("x" * 100, max_bytes=50) == (None, "larger than 50 bytes as JSON (at the top level)")
    kept, why = encode_result(Broken([1]))
    assert kept is None
    assert why is not None
    why.encode()


def test_a_document_of_nothing_but_containers_is_refused_before_it_is_parsed() -> None:
    """Sixteen megabytes of them would hold the whole process up for seconds."""
    body = b"[" + b"[]," * MAX_CONTAINERS + b"[]]"
    with pytest.raises(DataRefused, match="250,000 arrays and objects"):
        loads(body)
    assert loads(b'["' + b"[]" * MAX_CONTAINERS + b'"]') == ["[]" * MAX_CONTAINERS]
