"""``filter``: the matching records, copied as they stand, as a new dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from actors._datasets.engine import Engine
from actors._datasets.records import Source

#: Row numbers that are fetched at once.
BATCH: Final = 10_000


def write_matching(source: Source, target: Path, engine: Engine) -> int:
    """Copy the header and the records that table ``data`` numbers to ``target``; returns how many."""
    wanted = _numbers(engine)
    following = next(wanted, None)
    kept = 0
    with target.open("w", encoding="utf-8", newline="") as file:
        file.write(_ended(source.header))
        if following is None:
            return 0
        for number, record in enumerate(source.records(), 1):
            if number != following:
                continue
            file.write(_ended(record.text))
            kept += 1
            following = next(wanted, None)
            if following is None:
                break
    return kept


def _numbers(engine: Engine) -> Iterator[int]:
    for rows in engine.batches("SELECT n FROM data ORDER BY n", size=BATCH):
        yield from (number for (number,) in rows)


def _ended(text: str) -> str:
    """A record with its line end; the last of a file may have none."""
    return text if not text or text.endswith(("\n", "\r")) else text + "\n"
