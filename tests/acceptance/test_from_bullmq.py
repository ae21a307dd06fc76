"""docs/how-to/from-bullmq.md, done as it says, on a running ``up``."""

from __future__ import annotations

import ast
import json
import re

import httpx

from tests.acceptance.pages import DocumentedPage
from tests.acceptance.spine import RELOAD_S, Spine
from tests.support import wait_for

PAGE = DocumentedPage("how-to/from-bullmq.md")


def test_nothing_on_the_page_is_unexecuted() -> None:
    assert set(PAGE.runs) == {"enqueue", "crons"}
    assert set(PAGE.files) == {"actors/my_new_job.py"}
    assert PAGE.loose() == []


def test_every_address_it_names_exists(spine: Spine) -> None:
    served = httpx.get(f"{spine.url}/openapi.json").json()["paths"]
    named = set(re.findall(r"`(GET|POST) (/[^`?]*)`", PAGE.text.replace("{id}", "{job_id}")))
    assert len(named) >= 8
    assert [f"{method} {path}" for method, path in named if method.lower() not in served.get(path, {})] == []


def test_the_file_is_a_job_with_options_and_a_schedule(spine: Spine) -> None:
    for name, content in PAGE.files.items():
        (spine.clone.folder / name).write_text(content)
    wait_for(lambda: spine.knows("my-new-job"), RELOAD_S, interval=0.1, what="my-new-job is a job type")
    job_id, _, result = PAGE.run("enqueue", spine.clone).strip().splitlines()[-1].partition(" ")
    assert ast.literal_eval(result) == {"success": True}
    job = spine.job(job_id)
    assert (job["priority"], job["max_attempts"], job["unique_key"]) == (5, 3, "my-new-job-value")
    assert [line["text"] for line in job["log"]] == ["processing value"]
    assert job["progress"]["message"] == "half way"

    def scheduled() -> bool:
        listed = json.loads(PAGE.run("crons", spine.clone, URL=spine.url, KEY=spine.told["api_key"]))["crons"]
        return "my-new-job-daily" in [cron["name"] for cron in listed]

    wait_for(scheduled, RELOAD_S, interval=0.5, what="the schedule is known")
