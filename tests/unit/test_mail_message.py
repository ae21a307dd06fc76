"""The mail of a job: what readers get is what the tenant wrote, whatever that was, and nothing else is in the head."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.errors import PermanentError
from actors.runtime.mail_message import Mail, compose, unstructured
from models.mail import MAX_NAME_CHARS, Sender, is_one_line

JOB = UUID("01980000-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
HEAD = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]

LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=200)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
#: What tenants type to see what happens.
HOSTILE = st.sampled_from(
    ["=?utf-8?q?a=0D=0ABcc:_x@y.example?=", "=?utf-8?b?DQpCY2M6IHhAeS5leGFtcGxl?=", "=?", "?=", "a", " ", '"', "<x@y>",
     "\\", ",", ";", ":", "é", "日本", "\U0001f4ec", "\u202e", "\u00a0", "word " * 30, "x" * 190]
)  # fmt: skip
SUBJECTS = LINES | st.lists(HOSTILE, min_size=1).map(lambda parts: "".join(parts)[:200])


def make(*, sender: str | Sender = "a@b.example", to: str = "c@d.example", **more: Any) -> Mail:
    given: dict[str, Any] = {"subject": "s", "body": None, "html": None, "at": NOW, **more}
    return compose(JOB, sender if isinstance(sender, Sender) else Sender(sender), to, **given)


def read(mail: Mail) -> EmailMessage:
    message = message_from_bytes(mail.content, policy=SMTP)
    assert isinstance(message, EmailMessage)
    return message


def text_of(part: Any) -> str:
    """The text of a part with one kind of line end; the last line has one."""
    return str(part.get_content()).replace("\r\n", "\n")


def as_sent(text: str) -> str:
    """What a text is after a way on which line ends are CRLF and the last line has one."""
    lines = text.encode().splitlines()
    return (b"\n".join(lines) + b"\n").decode()


def test_a_plain_mail_to_the_byte() -> None:
    mail = make(sender=Sender("shop@example.com", "The Shop"), to="eve@example.net", subject="Hello", body="Hi\nEve")
    assert mail.content == (
        b'From: "The Shop" <shop@example.com>\r\n'
        b"To: eve@example.net\r\n"
        b"Subject: Hello\r\n"
        b"Date: Wed, 25 Nov 2026 03:00:00 +0000\r\n"
        b"Message-ID: <callboard.01980000-0000-7000-8000-000000000001@example.com>\r\n"
        b"Auto-Submitted: auto-generated\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"MIME-Version: 1.0\r\n"
        b"\r\n"
        b"Hi\r\nEve\r\n"
    )


@pytest.mark.parametrize(
    ("body", "html", "kind", "parts"),
    [
        ("t", None, "text/plain", []),
        (None, "<p>h", "text/html", []),
        ("", "<p>h", "text/html", []),
        ("t", "<p>h", "multipart/alternative", [("text/plain", "t\n"), ("text/html", "<p>h\n")]),
        (None, None, "text/plain", []),
        ("t", "", "text/plain", []),
    ],
)
def test_parts(body: str | None, html: str | None, kind: str, parts: list[tuple[str, str]]) -> None:
    message = read(make(body=body, html=html))
    assert message.get_content_type() == kind
    assert [(part.get_content_type(), text_of(part)) for part in message.iter_parts()] == parts
    if not parts:
        assert text_of(message) == f"{body or html or ''}\n"


@settings(max_examples=60)
@given(SUBJECTS)
def test_a_subject_arrives_as_it_was_written_and_adds_no_field(subject: str) -> None:
    mail = make(subject=subject)
    message = read(mail)
    assert [name for name in message.keys() if name not in HEAD] == ["Content-Transfer-Encoding"]  # noqa: SIM118
    # As all readers do it: encoded words decoded, lines unfolded. The space at the head's end is nobody's.
    assert message["Subject"] == subject
    assert not message.defects
    assert text_of(message) == "\n"


@settings(max_examples=60)
@given(SUBJECTS)
def test_the_lines_of_a_subject_are_short_and_ascii(subject: str) -> None:
    value = unstructured(subject, "Subject")
    assert value.isascii()
    for number, line in enumerate(f"Subject: {value}".split("\n")):
        assert line.strip(), "a line of blanks ends the head for some"
        assert number == 0 or line.startswith(" ")
        assert len(line) <= 78 or " " not in line.removeprefix("Subject: ").strip()
        assert len(line) <= 76 or "=?" not in line


@settings(max_examples=60)
@given(LINES.map(lambda text: " ".join(text.split())[:MAX_NAME_CHARS].strip()))
def test_a_senders_name_arrives_and_adds_no_address(name: str) -> None:
    mail = make(sender=Sender("a@b.example", name))
    [address] = read(mail)["From"].addresses
    assert address.addr_spec == "a@b.example"
    # The library reads the space between two encoded words of a phrase, which RFC 2047 section 6.2 says is not there.
    assert address.display_name.replace(" ", "") == name.replace(" ", "")


@settings(max_examples=60)
@given(body=TEXTS, html=TEXTS)
def test_texts_arrive_as_they_were_written(body: str, html: str) -> None:
    message = read(make(body=body, html=html))
    text, page = message.get_body(("plain",)), message.get_body(("html",))
    assert text is None or text_of(text) == as_sent(body)
    assert page is None or text_of(page) == as_sent(html)
    assert text is not None or page is not None


@settings(max_examples=60)
@given(body=TEXTS, html=TEXTS)
def test_what_travels_is_ascii_in_short_lines(body: str, html: str) -> None:
    content = make(body=body, html=html).content
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert b"\n" not in content.replace(b"\r\n", b"")


def test_the_message_id_is_the_jobs() -> None:
    first, second = make(), make(at=datetime(2026, 11, 26, tzinfo=UTC), subject="other")
    assert first.message_id == second.message_id == f"<callboard.{JOB}@b.example>"
    assert read(first)["Message-ID"] == first.message_id


def test_a_domain_beyond_ascii_is_written_as_the_dns_knows_it() -> None:
    mail = make(sender="a@bücher.example", to="x@straße.example")
    assert (mail.sender, mail.to) == ("a@xn--bcher-kva.example", "x@xn--strae-oqa.example")
    assert not mail.needs_utf8
    assert read(mail)["To"] == mail.to
    assert mail.message_id.endswith("@xn--bcher-kva.example>")


def test_a_domain_that_cannot_be_is_no_second_try() -> None:
    with pytest.raises(PermanentError, match="there can be no domain"):
        make(to="x@-é-.example")


def test_a_name_beyond_ascii_needs_a_server_that_allows_it() -> None:
    mail = make(to="käthe@bücher.example", subject="é")
    assert mail.needs_utf8
    assert mail.to == "käthe@xn--bcher-kva.example"
    assert f"To: {mail.to}\r\n".encode() in mail.content
    assert read(mail)["Subject"] == "é"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "\t", "a\u2028b", "\x85", "\x0b", "\ud800"])
def test_what_is_no_line(text: str) -> None:
    assert not is_one_line(text)
