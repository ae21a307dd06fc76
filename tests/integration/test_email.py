"""``email`` jobs in a worker, against a real mail server: what each outcome means for the job."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from actors.mail import send_email
from models.settings import get_settings
from tests.integration import worker_support
from tests.integration.worker_support import COMPLETED, FAILED, Row, Stage
from tests.support import wait_for
from tests.unit.smtp_server import MailPlay, serving

pytestmark = pytest.mark.once

stage = worker_support.stage


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> Any:
    """A mail server, and the settings that name it."""
    with serving() as server:
        use(monkeypatch, server.url())
        yield server


def use(monkeypatch: pytest.MonkeyPatch, url: str, sender: str = "The Shop <shop@example.com>") -> None:
    """Settings of the worker, which reads them at the first mail."""
    monkeypatch.setenv("CALLBOARD_SMTP_URL", url)
    monkeypatch.setenv("CALLBOARD_MAIL_FROM", sender)
    get_settings.cache_clear()


def email(stage: Stage, **options: Any) -> Any:
    """The actor, as it is but for its backoff, on this test's broker."""
    own = {name: send_email.options[name] for name in ("max_retries", "time_limit")}
    return stage.actor(send_email.fn, actor_name="email", **{**own, **options})


def run(stage: Stage, actor: Any, **payload: Any) -> Row:
    """The row of one job once it has ended."""
    message = actor.send(**{"to": "eve@example.net", "subject": "Hello", **payload})
    stage.start(threads=1)
    return stage.run(message, timeout=30)


def test_a_mail_is_sent(stage: Stage, mail: MailPlay) -> None:
    row = run(stage, email(stage), body="Hi Eve", html="<p>Hi Eve")
    [got] = mail.got
    assert (row["status"], row["attempts"]) == (COMPLETED, 1)
    result = row["result"]
    assert result.pop("duration_ms") >= 0
    assert result == {
        "message_id": f"<callboard.{row['id']}@example.com>",
        "accepted": "eve@example.net",
        "answer": "250 2.0.0 Ok: queued as 4711",
    }
    assert (got.sender, got.to) == ("shop@example.com", "eve@example.net")
    assert got.message["From"] == "The Shop <shop@example.com>"
    assert got.message["Message-ID"] == result["message_id"]
    assert [part.get_content() for part in got.message.iter_parts()] == ["Hi Eve\r\n", "<p>Hi Eve\r\n"]


def test_a_temporary_refusal_is_tried_again_with_the_same_message_id(stage: Stage, mail: MailPlay) -> None:
    mail.answers["DATA"] = ["451 4.7.1 greylisted, try again"]
    row = run(stage, email(stage))
    assert (row["status"], row["attempts"]) == (COMPLETED, 2)
    assert [entry["message"] for entry in row["errors"]] == [
        "the mail server did not accept the mail for now: 451 4.7.1 greylisted, try again"
    ]
    first, second = mail.got
    assert first.message["Message-ID"] == second.message["Message-ID"] == row["result"]["message_id"]


@pytest.mark.parametrize(("command", "what"), [("MAIL", "sender"), ("RCPT", "recipient"), ("DATA", "mail")])
def test_a_permanent_refusal_fails_at_once(stage: Stage, mail: MailPlay, command: str, what: str) -> None:
    mail.answers[command] = ["550 5.1.1 no"]
    row = run(stage, email(stage))
    assert (row["status"], row["attempts"]) == (FAILED, 1)
    assert row["error"] == f"PermanentError: the mail server refused the {what}: 550 5.1.1 no"


def test_a_server_that_is_back_gets_the_mail(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    use(monkeypatch, f"smtp://127.0.0.1:{port}")
    message = email(stage, max_retries=None).send(to="eve@example.net", subject="Hello")
    stage.start(threads=1)

    def refused() -> bool:
        return "cannot be reached" in (stage.job(message)["error"] or "")

    wait_for(refused, what="a failed attempt")
    with serving(port=port) as server:
        row = stage.run(message, timeout=30)
    assert row["status"] == COMPLETED
    assert row["attempts"] > 1
    assert len(server.got) == 1


def test_a_missing_setting_is_named_and_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALLBOARD_SMTP_URL", "CALLBOARD_MAIL_FROM"):
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()
    row = run(stage, email(stage, max_retries=1))
    assert (row["status"], row["attempts"]) == (FAILED, 2)
    assert row["error"] == (
        "MailNotSent: this worker has no CALLBOARD_SMTP_URL and CALLBOARD_MAIL_FROM: set it and restart the workers"
    )
