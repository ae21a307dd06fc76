"""One place that decides whether data can be kept: as JSON, by Postgres ``json`` and ``jsonb``, by Python's loader.

What is refused, and who would refuse it later (each one seen to break a write):

- NUL in a string or key: Postgres (22P05) · lone surrogate: UTF-8 (22P02, ``UnicodeEncodeError``)
- NaN, ±Infinity, ``1e400``: JSON itself (RFC 8259 section 6) and Postgres (22P02)
- integers of more than 300 digits: Python's own parser stops at 4,300, other languages far earlier
- nesting deeper than 64: recursive parsers, Python's at about 1,000 levels
- sets, bytes, dates, objects: JSON has no such thing · two keys that are one in JSON: one of them would vanish
- more bytes than the row should carry, or more arrays and objects than anybody should have to parse
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import accumulate
from json import JSONDecodeError, JSONDecoder
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

from models.errors import DataRefused

#: Bytes (UTF-8) of one job's arguments.
MAX_ARGS_BYTES = 1024 * 1024
#: Bytes (UTF-8) of one job's result.
MAX_RESULT_BYTES = 4 * 1024 * 1024
#: Levels of arrays and objects within each other; a bare string or number is level 0.
MAX_DEPTH = 64
#: Arrays and objects in one document; each costs far more time and memory than its two bytes.
MAX_CONTAINERS = 250_000
#: Decimal digits of an integer, without its sign.
MAX_INT_DIGITS = 300
#: Characters of one key that a fault's pointer repeats.
_POINTER_KEY_CHARS = 100

_TOO_BIG_INT = 10**MAX_INT_DIGITS
_SURROGATE = re.compile("[\ud800-\udfff]")
#: A JSON string, finished or not. Possessive, so that a broken one cannot make the search quadratic.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
#: For ``bytes.translate``: brackets that open become 2, those that close 0; everything else is deleted.
_BRACKETS = bytes.maketrans(b"[{]}", b"\2\2\0\0")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_LONG_DIGITS = re.compile(f"[0-9]{{{MAX_INT_DIGITS + 1}}}")

_NUL = "a NUL character (U+0000) cannot be kept"
_LONE_SURROGATE = "a lone surrogate (half of a UTF-16 pair) is not text"
_LONG_INT = f"an integer of more than {MAX_INT_DIGITS} digits cannot be kept"
_NOT_FINITE = "NaN, Infinity and numbers too large for a float are not JSON"


def encode(value: object, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> str:
    """Render ``value`` as compact JSON text that Postgres takes and Python reads back.

    Tuples become arrays and number, bool and None keys become strings, as with :func:`json.dumps`. The walk keeps
    its own stack and stops at ``max_bytes``: neither depth nor containers that hold themselves can hurt it.

    Args:
      value: what to keep.
      max_bytes: the most UTF-8 bytes that the text may have.
      max_depth: the most levels of containers.

    Raises:
      DataRefused: with the reason and the RFC 6901 pointer to the first fault.
    """
    out: list[str] = []
    size = 0
    path: list[object] = []  # keys of the containers around the current item; the first is the root's own, None
    outer: list[tuple[Iterator[tuple[Any, Any]], dict[Any, Any] | None]] = []
    items: Iterator[tuple[Any, Any]] = iter(((None, value),))
    mapping: dict[Any, Any] | None = None  # the dict that ``items`` walks, None in a list and at the root
    comma = ""
    try:
        while True:
            for key, item in items:
                lead = comma
                comma = ","
                if mapping is not None:
                    name = key if type(key) is str else _key(key, mapping, path)
                    if "\0" in name or not (name.isascii() or _SURROGATE.search(name) is None):
                        raise DataRefused(f"in a key, {_text_fault(name)}", _pointer(path, name))
                    lead += encode_basestring(name) + ":"
                kind = type(item)
                if kind is not str and kind not in _EXACT:
                    item, kind = _plain(item, path, key)  # noqa: PLW2901 - a second name would cost on every send
                if kind is str:
                    if "\0" in item or not (item.isascii() or _SURROGATE.search(item) is None):
                        raise DataRefused(_text_fault(item), _pointer(path, key))
                    lead += encode_basestring(item)
                elif kind is int:
                    if not -_TOO_BIG_INT < item < _TOO_BIG_INT:
                        raise DataRefused(_LONG_INT, _pointer(path, key))
                    lead += repr(item)
                elif item is None:
                    lead += "null"
                elif kind is bool:
                    lead += "true" if item else "false"
                elif kind is float:
                    if not isfinite(item):
                        raise DataRefused(_NOT_FINITE, _pointer(path, key))
                    lead += repr(item)
                else:
                    if len(outer) >= max_depth:
                        raise DataRefused(f"nested deeper than {max_depth} levels", _pointer(path, key))
                    outer.append((items, mapping))
                    path.append(key)
                    if isinstance(item, dict):
                        lead += "{"
                        items, mapping = iter(item.items()), item
                    else:
                        lead += "["
                        items, mapping = enumerate(item), None
                    comma = ""
                    out.append(lead)
                    size += len(lead)
                    break
                out.append(lead)
                size += len(lead)  # characters: never more than the bytes, so stopping here is never too early
                if size > max_bytes:
                    raise _too_large(max_bytes)
            else:
                if not outer:
                    break
                out.append("]" if mapping is None else "}")
                size += 1
                if size > max_bytes:  # here too: containers that hold nothing but containers have no leaf
                    raise _too_large(max_bytes)
                path.pop()
                items, mapping = outer.pop()
                comma = ","
    except (DataRefused, MemoryError):
        raise
    except Exception as error:  # "dictionary changed size during iteration", or a container that cannot be read
        raise DataRefused(f"cannot be read: {type(error).__name__}: {clean_text(error, 300)}") from error
    text = "".join(out)
    if size > max_bytes or (not text.isascii() and len(text.encode()) > max_bytes):
        raise _too_large(max_bytes)
    return text


def encode_result(value: object, max_bytes: int = MAX_RESULT_BYTES) -> tuple[str | None, str | None]:
    """Render an actor's result; never raises, because the actor's side effect has happened whatever it returned.

    Returns:
      ``(json_text, None)``, or ``(None, why the result could not be kept)``.
    """
    try:
        return encode(value, max_bytes=max_bytes), None
    except DataRefused as refused:
        return None, f"{refused.reason} (at {refused.pointer or 'the top level'})"
    except MemoryError:
        return None, "there was not enough memory to write it down as JSON"


def loads(text: str | bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON from outside, as strictly as :func:`encode` writes it: whatever comes back can be kept.

    Args:
      text: JSON text; bytes must be UTF-8 (RFC 8259 section 8.1), without a byte order mark.
      max_depth: the most levels of arrays and objects.

    Raises:
      DataRefused: and nothing else. Faults of syntax name line and column, all others have a pointer.
    """
    if isinstance(text, bytes):
        raw = text
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise DataRefused(f"not valid UTF-8 at byte {error.start}") from None
    else:
        raw = text.encode("utf-8", "surrogatepass")
    if raw.count(b"[") + raw.count(b"{") > max_depth:
        depth, containers = _shape(raw)
        if depth > max_depth:
            raise DataRefused(f"nested deeper than {max_depth} levels")
        if containers > MAX_CONTAINERS:
            raise DataRefused(f"more than {MAX_CONTAINERS:,} arrays and objects")
    decoder = _CAREFUL_DECODER if _LONG_DIGITS.search(text) else _DECODER
    try:
        value = decoder.decode(text)
    except JSONDecodeError as error:
        raise DataRefused(f"not valid JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    encode(value, max_bytes=sys.maxsize, max_depth=max_depth)  # the one rule set, applied to what was parsed
    return value


def clean_text(text: object, limit: int) -> str:
    """Make text that any column and any JSON document takes; never raises.

    Args:
      text: a string, or anything with a ``str()``, which may itself fail.
      limit: the most characters to return; what is cut ends in "…".
    """
    try:
        plain = str.__str__(text if isinstance(text, str) else str(text))
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything
        plain = f"<{type(text).__name__} that cannot be shown as text>"
    if "\0" in plain:
        plain = plain.replace("\0", "")
    if not plain.isascii():
        plain = _SURROGATE.sub("\ufffd", plain)
    if len(plain) > limit:
        plain = plain[: limit - 1] + "…" if limit > 0 else ""
    return plain


class _Fault:
    """Stands in a parsed document where something cannot be kept, until the walk finds it and knows its pointer."""

    def __init__(self, reason: str, *inside: str) -> None:
        self.reason = reason
        self.inside = inside


_EXACT = frozenset({str, int, float, bool, type(None), dict, list, tuple})


def _plain(item: object, path: list[object], key: object) -> tuple[Any, type]:
    """Reduce a subclass (enumerations, named tuples, numpy floats…) to the built-in type that JSON writes it as."""
    if isinstance(item, str):
        return str.__str__(item), str
    if isinstance(item, int):
        return int.__index__(item), int
    if isinstance(item, float):
        return float.__float__(item), float
    if isinstance(item, dict | list | tuple):
        return item, type(item)
    if isinstance(item, _Fault):
        raise DataRefused(item.reason, _pointer(path, key, *item.inside))
    raise DataRefused(f"{_type_name(item)} is not JSON", _pointer(path, key))


def _key(key: object, mapping: dict[Any, Any], path: list[object]) -> str:
    """The string that JSON makes of a key; as :func:`json.dumps`, but refuses two keys that would become one."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None:
        text = "null"
    elif isinstance(key, bool):
        text = "true" if key else "false"
    elif isinstance(key, int):
        if not -_TOO_BIG_INT < int.__index__(key) < _TOO_BIG_INT:
            raise DataRefused(f"in a key, {_LONG_INT}", _pointer(path))
        text = int.__repr__(key)
    elif isinstance(key, float):
        if not isfinite(key):
            raise DataRefused(f"in a key, {_NOT_FINITE}", _pointer(path))
        text = float.__repr__(key)
    else:
        raise DataRefused(f"{_type_name(key)} cannot be a key", _pointer(path))
    # Keys of other types never meet each other here: equal ones are one key of the dict, others differ as text.
    if dict.__contains__(mapping, text):
        raise DataRefused(f"two keys are both {text!r} in JSON", _pointer(path, text))
    return text


def _pointer(path: list[object], *keys: object) -> str:
    """RFC 6901 pointer; keys are cut and cleaned so that the pointer itself can always be stored and shown."""
    # The first key belongs to the root, which has no name.
    return "".join(
        "/" + clean_text(key, _POINTER_KEY_CHARS).replace("~", "~0").replace("/", "~1") for key in [*path, *keys][1:]
    )


def _text_fault(text: str) -> str:
    return _NUL if "\0" in text else _LONE_SURROGATE


def _type_name(value: object) -> str:
    return f"a value of type {clean_text(type(value).__name__, _POINTER_KEY_CHARS)}"


def _too_large(max_bytes: int) -> DataRefused:
    return DataRefused(f"larger than {max_bytes:,} bytes as JSON")


def _shape(raw: bytes) -> tuple[int, int]:
    """The deepest nesting and the number of containers in JSON text, valid or not; strings do not count."""
    brackets = _STRING.sub(b"", raw).translate(_BRACKETS, _NOT_BRACKETS)
    return max(accumulate(map((-1).__add__, brackets)), default=0), brackets.count(2)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        return _Fault("this key occurs twice in one object", twice)
    return members


def _constant(_: str) -> _Fault:
    return _Fault(_NOT_FINITE)


def _integer(digits: str) -> int | _Fault:
    return _Fault(_LONG_INT) if len(digits.lstrip("-")) > MAX_INT_DIGITS else int(digits)


_DECODER = JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
#: Asks about every integer, which costs; used when the text has a long run of digits anywhere.
_CAREFUL_DECODER = JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
