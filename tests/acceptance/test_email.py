"""``email`` under ``up``, from outside: by HTTP only, the mail is in the mailbox."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest

from tests.acceptance.spine import Spine
from tests.support import wait_for

#: Seconds for a mail to arrive, and for the mailbox to be started again.
PATIENCE_S = 40


def mails(spine: Spine, to: str) -> list[dict[str, Any]]:
    """What the mailbox has for an address."""
    answer = httpx.get(f"{spine.told['mailbox_url']}/api/messages", params={"to": to}, timeout=10)
    return list(answer.raise_for_status().json()["messages"])


def completed(spine: Spine, job_id: str) -> dict[str, Any]:
    """The job once it has ended well, by HTTP."""

    def ended() -> dict[str, Any]:
        with spine.api() as api:
            job: dict[str, Any] = api.get(f"/jobs/{job_id}").json()
        assert job["status"] == "COMPLETED", (job["status"], job["error"])
        return job

    return wait_for(ended, PATIENCE_S, interval=0.1, what="the job to end well")


def test_a_mail_sent_by_http_is_in_the_mailbox(spine: Spine) -> None:
    to = "eve@example.net"
    job_id = spine.send("email", {"to": to, "subject": "Grüße aus Köln", "body": "Hi Eve", "html": "<p>Hi <b>Eve</b>"})
    job = completed(spine, job_id)
    assert job["attempts"] == 1
    [mail] = mails(spine, to)
    assert (mail["subject"], mail["text"], mail["html"]) == ("Grüße aus Köln", "Hi Eve\n", "<p>Hi <b>Eve</b>\n")
    assert mail["message_id"] == job["result"]["message_id"] == f"<callboard.{job_id}@localhost>"
    page = httpx.get(f"{spine.told['mailbox_url']}/messages/{mail['id']}", timeout=10)
    assert "Grüße aus Köln" in page.text
    assert f"Mailbox    {spine.told['mailbox_url']}" in spine.running.said()


def test_run_has_the_same_mailbox(spine: Spine) -> None:
    to = "run@example.net"
    code = f"from actors import send_email; print(send_email.send(to='{to}', subject='from run').message_id)"
    completed(spine, spine.python(code))
    assert [mail["subject"] for mail in mails(spine, to)] == ["from run"]
    names = "CALLBOARD_SMTP_URL", "CALLBOARD_MAIL_FROM"
    shown = spine.python(f"import os; print(*(os.environ[name] for name in {names}), sep='\\n')").splitlines()
    assert shown[0].startswith("smtp://callboard:")
    assert shown[1] == "Callboard <callboard@localhost>"


def test_a_killed_mailbox_comes_back_with_its_mail_and_gets_what_came_meanwhile(spine: Spine) -> None:
    to = "meanwhile@example.net"
    completed(spine, spine.send("email", {"to": to, "subject": "before"}))
    [before] = spine.clone.up_json["pids"]["mailbox"]
    os.kill(before, signal.SIGKILL)
    job_id = spine.send("email", {"to": to, "subject": "after"}, backoff={"type": "fixed", "delay": 500})

    def started_again() -> bool:
        return spine.clone.up_json["pids"].get("mailbox", [before]) != [before]

    wait_for(started_again, PATIENCE_S, what="another mailbox")
    completed(spine, job_id)
    assert [mail["subject"] for mail in mails(spine, to)] == ["after", "before"]
    assert spine.clone.up_json["mailbox_url"] == spine.told["mailbox_url"]


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({}, {"/payload/to", "/payload/subject"}),
        ({"to": "a@b, c@d", "subject": "s"}, {"/payload/to"}),
        ({"to": "a@b", "subject": "x\r\nBcc: c@d", "cc": "c@d"}, {"/payload/subject", "/payload/cc"}),
    ],
)
def test_a_wrong_payload_is_refused_field_by_field(spine: Spine, payload: dict[str, Any], pointers: set[str]) -> None:
    with spine.api() as api:
        answer = api.post("/jobs", json={"type": "email", "payload": payload})
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == pointers
