"""The API does what ``/openapi.json`` says, and nothing else: every check of schemathesis, on whatever is in it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

import actors  # noqa: F401 - installs the broker and the job types
from actors.runtime.job_type import job_types
from tests.ledger_driver import Driver
from tests.web_server import WebServer
from web.openapi import document

#: Cases per operation, beyond those that cover each keyword of its schemas.
EXAMPLES = 5

# Its own URIs are of any scheme, and few have a host that could exist.
schemathesis.openapi.format(
    "uri",
    st.from_regex(
        r"[hH][tT][tT][pP][sS]?://[a-z0-9]{1,20}(\.[a-z]{2,6}){0,2}(:[1-9][0-9]{0,3})?(/[!-.0-9<>A-Z]*)?(\?[!-~]*)?(#[!-~]*)?",
        fullmatch=True,
    ).filter(lambda url: "\\" not in url),
)


_word = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)
_label = st.from_regex("[a-z0-9\u00df-\u00f6]{1,12}", fullmatch=True)
# No JSON Schema can tell a letter beyond ASCII from a space; the format's own strategy has neither.
schemathesis.openapi.format(
    "idn-email",
    st.builds(
        lambda atoms, labels: f"{'.'.join(atoms)}@{'.'.join(labels)}",
        st.lists(st.from_regex("[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,9}", fullmatch=True), min_size=1, max_size=3),
        st.lists(_label, min_size=1, max_size=3),
    ),
)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Rows that whoever takes CSV takes: cafés, which are a dataset too."""
    rows = draw(st.lists(st.tuples(_word, _word, st.from_regex("[A-Z]{2}", fullmatch=True)), min_size=1, max_size=3))
    text = io.StringIO()
    csv.writer(text).writerows([("name", "city", "countryCode"), *rows])
    return text.getvalue().encode()


schemathesis.openapi.media_type("text/csv", csv_files())
for name in ("application/x-ndjson", "application/jsonl"):
    lines = st.lists(st.dictionaries(_word, _word | st.integers(), min_size=1, max_size=3), min_size=1, max_size=3)
    schemathesis.openapi.media_type(name, lines.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()))


def is_stream(context: Any) -> bool:
    """Streams do not end; how they begin is in the document as their HEAD, and test_feed.py reads them."""
    operation = context.operation
    answers = operation.definition.raw.get("responses", {})
    return operation.method == "get" and "text/event-stream" in answers.get("200", {}).get("content", {})


def has_figures_of_one_name(value: Any) -> bool:
    """That the columns of a result differ in name no JSON Schema can say; the request is refused."""
    if isinstance(value, list):
        return any(map(has_figures_of_one_name, value))
    if not isinstance(value, dict):
        return False
    return len(value.get("measures") or ()) > 1 or any(map(has_figures_of_one_name, value.values()))


# Hypothesis's own text is unrestricted; that NUL is refused everywhere no JSON Schema can say (test_api_bad_input).
_generation = GenerationConfig(allow_x00=False, deterministic=True)
_config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=_generation)))
schema = schemathesis.openapi.from_dict(document(list(job_types().values()), "http://localhost"), config=_config)


@pytest.mark.timeout(300)  # one test makes hundreds of requests, batches of 1,000 jobs among them
@schema.exclude(is_stream).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_is_as_described(case: schemathesis.Case, web: WebServer, driver: Driver) -> None:
    _, key = driver.tenant()  # every case has a world of its own: an Idempotency-Key may occur in many
    unsaid = [positive_data_acceptance] if has_figures_of_one_name(case.body) else []
    headers = {"Authorization": f"Bearer {key}"}
    case.call_and_validate(base_url=web.url, headers=headers, timeout=20, excluded_checks=unsaid)


def test_this_is_what_is_served(web: WebServer) -> None:
    assert httpx.get(f"{web.url}/openapi.json").json() == document(list(job_types().values()), web.url)
