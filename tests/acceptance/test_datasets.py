"""A table of 100,000 rows through HTTP only: profiled, aggregated and filtered as ``csv`` and ``Decimal`` would."""

from __future__ import annotations

import csv
import io
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psutil

from tests.acceptance.spine import Spine
from tests.support import wait_for

ROWS = 100_000
CITIES = ["Bern", "Basel", "Genève", 'the "Quoted"', "Two, Words", ""]
Measured = Callable[[str], None]


def table() -> str:
    """The same in every run: ids, cities, prices with cents, integers that a double cannot hold."""
    chosen, text = random.Random(20), io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "city", "price", "weight", "day"])
    for number in range(ROWS):
        price = f"{chosen.randint(-10_000_000, 99_999_999) / 100:.2f}" if chosen.random() > 0.02 else ""
        day = f"2026-{chosen.randint(1, 12):02}-{chosen.randint(1, 28):02}"
        weight = 9_007_199_254_740_993 + chosen.randint(0, 10**12)
        writer.writerow([number, chosen.choice(CITIES), price, weight, day])
    return text.getvalue()


def run(spine: Spine, dataset: str, operation: str, **more: Any) -> tuple[dict[str, Any], float, float]:
    """The result of a job, its seconds, and the MiB that the workers grew by at most meanwhile."""
    workers = [psutil.Process(pid) for pid in spine.worker_pids().values()]
    before = [worker.memory_info().rss for worker in workers]
    peak = 0

    def ended() -> bool:
        nonlocal peak
        peak = max(peak, *(w.memory_info().rss - rss for w, rss in zip(workers, before, strict=True)))
        return spine.job(job)["status"] not in ("PENDING", "RUNNING")

    begun = time.monotonic()
    job = spine.send("data_processing", {"dataId": dataset, "operation": operation, **more})
    wait_for(ended, 90, interval=0.01, what=f"{operation} ends")
    seconds = time.monotonic() - begun
    with spine.api() as api:
        answer = api.get(f"/jobs/{job}/result")
    assert answer.status_code == 200, answer.text
    return answer.json()["result"], seconds, peak / 1024 / 1024


def test_a_hundred_thousand_rows_equal_csv_and_decimal(spine: Spine, measured: Measured) -> None:
    text, dataset = table(), str(uuid4())
    body = text.encode()
    with spine.api() as api:
        begun = time.monotonic()
        answer = api.put(f"/datasets/{dataset}", content=body, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 201, answer.text
        measured(f"{len(body) / 1e6:.1f} MB put in {time.monotonic() - begun:.2f} s")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == ROWS

    found, seconds, mib = run(spine, dataset, "profile")
    measured(f"profile: {seconds:.2f} s, worker's memory +{mib:.0f} MiB")
    assert found["rows"] == ROWS
    for column in found["columns"]:
        check_column(column, [row[column["name"]] for row in rows])
    assert [c["type"] for c in found["columns"]] == ["integer", "text", "decimal", "integer", "date"]

    measures = [{"op": "count"}] + [
        {"op": op, "column": name} for name in ("price", "weight") for op in ("sum", "avg", "min", "max", "count")
    ]
    found, seconds, mib = run(spine, dataset, "aggregate", groupBy=["city"], measures=measures)
    measured(f"aggregate: {seconds:.2f} s, worker's memory +{mib:.0f} MiB")
    groups: dict[str | None, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["city"] or None].append(row)
    assert {group["city"]: exact(group) for group in found["groups"]} == {
        city: figures(members) for city, members in groups.items()
    }
    assert (found["truncated"], len(found["groups"])) == (False, len(CITIES))

    where = [{"column": "price", "op": ">", "value": "999000.00"}, {"column": "day", "op": ">=", "value": "2026-07-01"}]
    found, seconds, mib = run(spine, dataset, "filter", where=where)
    measured(f"filter: {seconds:.2f} s, worker's memory +{mib:.0f} MiB")
    expected = io.StringIO()
    writer = csv.DictWriter(expected, rows[0])
    writer.writeheader()
    kept = [r for r in rows if r["price"] and Decimal(r["price"]) > 999_000 and r["day"] >= "2026-07-01"]
    writer.writerows(kept)
    with spine.api() as api:
        assert api.get(found["dataset"]["link"]).text == expected.getvalue()
    assert found["dataset"]["rows"] == len(kept) > 0


def check_column(column: dict[str, Any], cells: list[str]) -> None:
    """A column of a profile against its cells."""
    filled = [cell for cell in cells if cell]
    assert column["nulls"] == len(cells) - len(filled)
    assert column["distinct"] == len(set(filled))
    frequent = sorted(Counter(filled).values(), reverse=True)[:10]
    assert [top["count"] for top in column["top"]] == frequent
    if column["type"] in ("integer", "decimal"):
        numbers = sorted(map(Decimal, filled))
        assert [Decimal(column[name]) for name in ("min", "max", "mean")] == [
            numbers[0],
            numbers[-1],
            sum(numbers) / len(numbers),
        ]
        ranks = {
            name: -(-len(numbers) * percent // 100)
            for name, percent in {"p25": 25, "p50": 50, "p75": 75, "p95": 95}.items()
        }
        nearest = {name: numbers[rank - 1] for name, rank in ranks.items()}
        assert {name: Decimal(value) for name, value in column["quantiles"].items()} == nearest
    else:
        assert (column["min"], column["max"]) == (min(filled), max(filled))


def figures(members: list[dict[str, str]]) -> dict[str, Any]:
    """What the measures must be."""
    expected: dict[str, Any] = {"count": len(members)}
    for name in ("price", "weight"):
        numbers = [Decimal(row[name]) for row in members if row[name]]
        expected[f"sum_{name}"] = sum(numbers)
        expected[f"avg_{name}"] = sum(numbers) / len(numbers)
        expected[f"min_{name}"], expected[f"max_{name}"] = min(numbers), max(numbers)
        expected[f"count_{name}"] = len(numbers)
    return expected


def exact(group: dict[str, Any]) -> dict[str, Any]:
    """A group's figures as numbers."""
    return {name: Decimal(value) for name, value in group.items() if name != "city"}
