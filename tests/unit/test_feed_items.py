"""What the feed reads from the stream and writes to clients."""

from __future__ import annotations

import json

import pytest

from web.feed_items import Position, encode_frame, parse_event_id, read_entry


def test_ids_are_read_as_they_are_written() -> None:
    position = Position(1_795_396_790_201, 3, 12)
    text = position.event_id("0123abcd")
    assert text == "0123abcd.1795396790201-3.12"
    assert parse_event_id(text) == ("0123abcd", position)


@pytest.mark.parametrize(
    "text", ["", "x", "0123abcd", "0123abcd.1.1", "0123abcd.1-1", "0123ABCD.1-1.1", "0123abcd.1-1.1\n"]
)
def test_other_ids_are_not_ours(text: str) -> None:
    assert parse_event_id(text) is None


def test_text_cannot_break_out_of_its_frame() -> None:
    frame = encode_frame({"error": "a\r\n\r\nevent: job\rdata: {}\u2028"}, "0123abcd.1-1.1")
    assert frame.count(b"\r\n\r\n") == 1
    assert frame.endswith(b"\r\n\r\n")
    assert frame.splitlines()[0] == b"id: 0123abcd.1-1.1"
    assert len(frame.strip().split(b"\r\n")) == 3


@pytest.mark.parametrize("content", ["{", "5", "null", '"x"', "[" * 100_000])
def test_an_entry_of_something_else_is_empty(content: str) -> None:
    assert read_entry({"e": content}) == []
    assert read_entry({}) == []


def test_a_change_of_something_else_keeps_its_place() -> None:
    change = {"t": "t", "id": "i", "type": "y", "status": "PENDING", "attempts": 0, "progress": None, "error": None}
    good = json.dumps({**change, "version": 1, "at": "z"})
    bad = good.replace("PENDING", "WHATEVER")
    entry = read_entry({"e": f"[5, {bad}, {good}]"})
    assert entry[:2] == [None, None]
    assert entry[2] is not None
    tenant, event = entry[2]
    assert tenant == "t"
    assert event.keys() == {"id", "type", "status", "attempts", "progress", "error", "version", "at"}
