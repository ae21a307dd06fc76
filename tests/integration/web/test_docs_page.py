"""The documentation page: all of the document, nothing from elsewhere, and examples that work."""

from __future__ import annotations

import html
import re
import shlex
from typing import Any

import httpx
import pytest

from tests.web_server import WebServer


@pytest.fixture(scope="module")
def page(web: WebServer) -> httpx.Response:
    return httpx.get(f"{web.url}/docs")


@pytest.fixture(scope="module")
def described(web: WebServer) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{web.url}/openapi.json").json()
    return document


def test_everybody_may_read_it_and_nobody_else_is_asked_for_anything(page: httpx.Response) -> None:
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(re.findall(r'(?:src|rel="stylesheet" href)="([^"]+)"', page.text)) == {
        "/static/favicon.svg",
        "/static/callboard.css",
    }
    assert "<script" not in page.text


def test_a_wrong_key_hides_nothing(web: WebServer, page: httpx.Response) -> None:
    assert httpx.get(f"{web.url}/docs", headers={"Authorization": "Bearer x"}).status_code == 200


def test_every_operation_status_parameter_and_schema_is_there(page: httpx.Response, described: dict[str, Any]) -> None:
    articles = dict(re.findall(r'<article class="operation" id="([^"]+)">(.*?)</article>', page.text, re.DOTALL))
    for item in described["paths"].values():
        for method, operation in item.items():
            if method in ("parameters", "head"):
                continue
            shown = html.unescape(articles[operation["operationId"]])
            assert all(f">{status}</span>" in shown for status in operation["responses"])
            parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
            assert all(f"<code>{parameter['name']}</code>" in shown for parameter in parameters)
    for name, schema in described["components"]["schemas"].items():
        assert all(f"<code>{key}</code>" in articles[f"schema-{name}"] for key in schema.get("properties", {}))
    for target in re.findall(r'href="#([^"]+)"', page.text):
        assert f'id="{target}"' in page.text


def test_its_examples_do_what_they_say(page: httpx.Response, tenant: tuple[str, str], api: httpx.Client) -> None:
    """Each line that names no id is run, as a shell would read it."""
    job_id = api.post("/jobs", json={"type": "sleep", "payload": {"delayMs": 1}}).json()["id"]
    lines = [html.unescape(code) for code in re.findall(r"<pre[^>]*><code>(curl .*?)</code>", page.text, re.DOTALL)]
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line.replace("\\\n", "").replace("YOUR_API_KEY", tenant[1]).replace("JOB_ID", job_id))
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        headers = dict(words[n + 1].split(": ", 1) for n, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1] if "-d" in words else None
        [url] = [word for word in words if word.startswith("http://")]
        if "-N" in words or re.search("/[A-Z_]+(/|$)", url):
            continue  # streams have no end, and other ids are not known here
        answer = httpx.request(method, url, headers=headers, content=body)
        state_forbids = answer.status_code == 409 and url.endswith(("/result", "/retry"))
        assert answer.is_success or state_forbids, (line, answer.text)
