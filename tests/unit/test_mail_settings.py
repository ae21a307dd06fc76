"""What CALLBOARD_SMTP_URL and CALLBOARD_MAIL_FROM may say, and what a mail address is."""

from __future__ import annotations

import pytest

from actors.mail import EmailPayload, send_email
from actors.runtime.errors import PayloadRefused
from models.mail import MailServer, Protection, Sender, address_fault, mail_server, sender
from models.settings import SettingsError, load_settings

NEEDED = {"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://h", MailServer("h", 25, Protection.OFFERED)),
        ("smtp://h/", MailServer("h", 25, Protection.OFFERED)),
        ("smtp+starttls://h", MailServer("h", 587, Protection.REQUIRED)),
        ("smtps://h", MailServer("h", 465, Protection.IMPLICIT)),
        ("smtp+plain://h", MailServer("h", 25, Protection.NONE)),
        ("SMTP://H:2525", MailServer("h", 2525, Protection.OFFERED)),
        ("smtp://[::1]:25", MailServer("::1", 25, Protection.OFFERED)),
        ("smtp://me%40x:p%3A%2F%3F%23%40%25+@h:587", MailServer("h", 587, Protection.OFFERED, "me@x", "p:/?#@%+")),
    ],
)
def test_urls(url: str, expected: MailServer) -> None:
    assert mail_server(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "h:25", "http://h", "smtp://", "smtp://:25", "smtp://h:0", "smtp://h:x", "smtp://h:65536", "smtp://h/path",
        "smtp://h?tls=1", "smtp://h#x", "smtp://user@h", "smtp://:hunter2@h", "smtp://user:hunter2#@h",
        "smtp://user:hunter2/@h", "smtp://user:hunter2?@h", "smtp://user:hunter2%C3%A9@h", "smtp://user:hunter2é@h",
        "hunter2://user:hunter2@h",
    ],
)  # fmt: skip
def test_what_is_no_url_is_said_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        mail_server(url)
    assert "hunter2" not in str(caught.value)


def test_a_server_does_not_show_its_password() -> None:
    assert "hunter2" not in repr(mail_server("smtp://user:hunter2@h"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_this_machine(host: str) -> None:
    assert mail_server(f"smtp://{host}").is_local


@pytest.mark.parametrize("host", ["mail.example", "127.example", "10.0.0.1", "localhost.example", "127.0.0.1.example"])
def test_other_machines(host: str) -> None:
    assert not mail_server(f"smtp://{host}").is_local


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b.example", Sender("a@b.example")),
        ("<a@b.example>", Sender("a@b.example")),
        ("Acme, Ltd. <a@b.example>", Sender("a@b.example", "Acme, Ltd.")),
        ('"Acme \\"Q\\"" <a@b.example>', Sender("a@b.example", 'Acme "Q"')),
        ("  Bücher   GmbH  <a@bücher.example> ", Sender("a@bücher.example", "Bücher GmbH")),
    ],
)
def test_senders(text: str, expected: Sender) -> None:
    assert sender(text) == expected


@pytest.mark.parametrize(
    "text", ["", "Acme", "a@b, c@d", "A <a@b> <c@d>", "A <a@b", "A\x07 <a@b.example>", "x" * 101 + " <a@b.example>"]
)
def test_what_is_no_sender(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address|has a name"):
        sender(text)


@pytest.mark.parametrize(
    "address",
    [
        "a@b", "user@localhost", "first.last+tag@mail.example.com", "!#$%&'*+-/=?^_`{|}~@x.example", "-a@x.example",
        "a@xn--bcher-kva.example", "a@bücher.example", "käthe@bücher.example", "用户@例子.example",
        f"{'a' * 64}@{'b' * 63}.example", f"a@{'b' * 63}.{'c' * 63}.{'d' * 63}.{'e' * 60}",
    ],
)  # fmt: skip
def test_addresses(address: str) -> None:
    assert address_fault(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "", "a", "@", "a@", "@b", "a@b@c", "a b@c.example", "a@b c", "A <a@b.example>", "<a@b.example>",
        "a@b.example,c@d.example", "a@b.example\n", "a@b.example\r\nRCPT TO:<x@y.example>", "a\0@b.example",
        "a@b.example>", "a..b@c.example", ".a@b.example", "a.@b.example", '"a b"@c.example', "a@[192.0.2.1]",
        "a@-b.example", "a@b-.example", "a@b..example", "a@b.example.", "a@b_c.example", "a\u2028@b.example",
        "a\u00a0b@c.example", "a@b\u3002example", "a@☃.example", "a\x85@b.example", "a@b.example\u200b",
        "a@b\ud800.example", f"{'a' * 65}@b.example", f"{'é' * 33}@b.example", f"a@{'b' * 64}.example",
        f"{'a' * 60}@{'b' * 63}.{'c' * 63}.{'d' * 63}.example",
    ],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    assert address_fault(address) is not None


def test_both_settings_are_named_when_both_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"CALLBOARD_SMTP_URL": "smtp://user:hunter2#@h", "CALLBOARD_MAIL_FROM": "nobody", "CALLBOARD_THREADS": "x"}
    for name, value in {**NEEDED, **wrong}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(_env_file=None)
    for name in wrong:
        assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_payload_is_the_contracts() -> None:
    assert send_email.actor_name == "email"
    schema = send_email.job_type.schema()
    assert set(schema["properties"]) == {"to", "subject", "body", "html"}
    assert schema["required"] == ["to", "subject"]
    assert schema["properties"]["subject"].items() >= {"minLength": 1, "maxLength": 200}.items()
    EmailPayload(to="a@b.example", subject="x" * 200)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"to": "a@b.example, c@d.example"}, "/to"),
        ({"to": "A <a@b.example>"}, "/to"),
        ({"to": ["a@b.example"]}, "/to"),
        ({"subject": ""}, "/subject"),
        ({"subject": "x" * 201}, "/subject"),
        ({"subject": "a\r\nBcc: x@y.example"}, "/subject"),
        ({"body": 1}, "/body"),
        ({"html": ["<p>"]}, "/html"),
        ({"cc": "a@b.example"}, "/cc"),
        ({"from": "a@b.example"}, "/from"),
    ],
)
def test_what_a_payload_may_not_be(change: dict[str, object], pointer: str) -> None:
    payload = {"to": "a@b.example", "subject": "s", **change}
    with pytest.raises(PayloadRefused) as caught:
        send_email.job_type.message(payload)
    assert [fault[0] for fault in caught.value.faults] == [pointer]
