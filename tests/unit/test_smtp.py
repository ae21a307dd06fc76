"""Handing over a mail: encryption, login, and what each answer, silence or end of a server means for the job."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from actors.runtime.errors import JobCancelled, PermanentError
from actors.runtime.mail_message import Mail, compose
from actors.runtime.smtp import MailNotSent, hand_over
from models.mail import MailServer, Sender, mail_server
from tests.unit.smtp_server import PASSWORD, USER, certificate, server_side, serving, talking

JOB = UUID("01980000-0000-7000-8000-000000000001")
LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
#: Seconds that tests give a server that will not answer.
SHORT: dict[str, float] = {"connect_s": 20, "answer_s": 0.5, "accept_s": 0.5}


def mail(to: str = "eve@example.net", body: str = "Hi") -> Mail:
    return compose(
        JOB, Sender("a@b.example"), to, subject="Hello", body=body, html=None, at=datetime(2026, 11, 25, tzinfo=UTC)
    )


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1."""
    return certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture(scope="module")
def trusting(trusted: Path) -> Callable[[], ssl.SSLContext]:
    """Makes the context of a client that trusts that certificate and no other."""
    return partial(ssl.create_default_context, cafile=trusted)


def send(url: str, *, what: Mail | None = None, **more: Any) -> str:
    return hand_over(mail_server(url), what or mail(), **more)


# -- what goes well


def test_a_mail_arrives_to_the_byte() -> None:
    with serving() as server:
        assert send(server.url(), what=mail(body=".\n..\nend")) == "250 2.0.0 Ok: queued as 4711"
    [got] = server.got
    assert (got.sender, got.to, got.encrypted) == ("a@b.example", "eve@example.net", False)
    assert got.content == mail(body=".\n..\nend").content
    assert server.names[0].startswith("[127.0.0.1]") or "." in server.names[0]


def test_starttls_is_used_when_offered(trusted: Path, trusting: Any) -> None:
    with serving(starttls=server_side(trusted)) as server:
        send(server.url(), tls=trusting)
    assert server.got[0].encrypted


def test_starttls_is_demanded(trusted: Path, trusting: Any) -> None:
    with serving(starttls=server_side(trusted)) as server:
        send(server.url("smtp+starttls"), tls=trusting)
    assert server.got[0].encrypted
    with serving() as plain, pytest.raises(MailNotSent, match="did not take us on: STARTTLS"):
        send(plain.url("smtp+starttls"), tls=trusting)
    assert plain.got == []


def test_tls_from_the_first_byte(trusted: Path, trusting: Any) -> None:
    with serving(implicit=server_side(trusted), login=True) as server:
        send(server.url("smtps", LOGIN), tls=trusting)
    assert (server.got[0].encrypted, server.got[0].user) == (True, USER.encode())


def test_plain_means_plain(trusted: Path) -> None:
    with serving(starttls=server_side(trusted)) as server:
        send(server.url("smtp+plain"))
    assert not server.got[0].encrypted


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_a_certificate_that_nobody_vouches_for_is_no_certificate(trusted: Path, scheme: str) -> None:
    tls = {"implicit" if scheme == "smtps" else "starttls": server_side(trusted)}
    with serving(**tls) as server, pytest.raises(MailNotSent, match="certificate verify failed"):
        send(server.url(scheme, LOGIN))
    assert (server.got, server.logins) == ([], [])


def test_a_certificate_for_another_name_is_refused(trusted: Path, trusting: Any) -> None:
    with (
        serving(implicit=server_side(trusted)) as server,
        pytest.raises(MailNotSent, match="not valid for 'localhost'"),
    ):
        send(server.url("smtps", host="localhost"), tls=trusting)


# -- login


def test_login_on_this_machine_needs_no_tls() -> None:
    with serving(login=True) as server:
        send(server.url(user=LOGIN))
    assert server.got[0].user == USER.encode()


def test_a_wrong_password_is_the_operators_matter_and_not_told() -> None:
    with serving(login=True) as server, pytest.raises(MailNotSent) as caught:
        send(server.url(user="me%40x:wr0ng"))
    assert str(caught.value).startswith("the mail server of CALLBOARD_SMTP_URL does not accept user and password: 535 ")
    assert "wr0ng" not in str(caught.value)
    assert server.got == []


def test_a_missing_login_is_the_operators_matter() -> None:
    with serving(login=True) as server, pytest.raises(MailNotSent, match="wants other credentials or encryption: 530"):
        send(server.url())


def test_a_server_without_logins() -> None:
    with (
        serving(auth_exclude_mechanism=["LOGIN", "PLAIN"]) as server,
        pytest.raises(MailNotSent, match="No suitable"),
    ):
        send(server.url(user=LOGIN))


def test_a_password_does_not_leave_this_machine_unprotected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MailServer, "is_local", property(lambda self: False))
    with serving(login=True) as server, pytest.raises(MailNotSent, match=r"no STARTTLS.*smtp\+plain://"):
        send(server.url(user=LOGIN))
    assert server.logins == []
    with serving(login=True) as server:
        send(server.url("smtp+plain", LOGIN))
    assert server.got[0].user == USER.encode()


# -- answers


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("code", [500, 501, 521, 550, 552, 553, 554])
def test_a_final_no_is_final(command: str, code: int) -> None:
    with serving() as server:
        server.answers[command] = [f"{code} 5.1.1 because"]
        with pytest.raises(PermanentError, match=f"the mail server refused the [a-z]+: {code} 5.1.1 because"):
            send(server.url())


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("code", [421, 450, 451, 452, 454, 530, 534, 535, 538, 354, 199])
def test_any_other_no_is_for_now(command: str, code: int) -> None:
    with serving() as server:
        server.answers[command] = [f"{code} not now"]
        with pytest.raises(MailNotSent, match=f"{code} not now"):
            send(server.url())


def test_an_answer_is_kept_as_clean_short_text() -> None:
    with serving() as server:
        server.answers["RCPT"] = [f"550-5.1.1 \x1b[31mred\r\n550 {'x' * 1000}"]
        with pytest.raises(PermanentError) as caught:
            send(server.url())
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_names_beyond_ascii_need_a_server_that_takes_them() -> None:
    with serving(enable_SMTPUTF8=True) as server:
        send(server.url(), what=mail("käthe@example.net"))
    assert server.got[0].to == "käthe@example.net"
    assert "SMTPUTF8" in server.got[0].mail_options
    with serving() as server, pytest.raises(PermanentError, match="it offers no SMTPUTF8"):
        send(server.url(), what=mail("käthe@example.net"))


def test_a_mail_that_is_too_large_is_refused_before_it_is_sent() -> None:
    with serving(data_size_limit=1000) as server, pytest.raises(PermanentError, match="552"):
        send(server.url(), what=mail(body="x" * 2000))
    assert server.got == []


# -- servers that fail


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(MailNotSent, match=r"cannot be reached: .*refused"):
        send(f"smtp://127.0.0.1:{port}")


def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(MailNotSent, match="cannot be reached"):
        send("smtp://no-such-host.invalid")


@pytest.mark.parametrize(
    "greeting", [b"", b"421 too busy\r\n", b"554 no mail here\r\n", b"HTTP/1.1 400 Bad\r\n", b"\xff\r\n"]
)
def test_a_server_that_does_not_greet(greeting: bytes) -> None:
    def talk(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall(greeting)

    with talking(talk) as port, pytest.raises(MailNotSent, match="did not take us on"):
        send(f"smtp://127.0.0.1:{port}", **SHORT)


def script(*answers: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Answers one line of the client after the other, the mail's text as one, and then says nothing more."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        lines = connection.makefile("rb")
        for answer in answers:
            connection.sendall(answer)
            line = lines.readline()
            while answer.startswith(b"354") and line not in (b".\r\n", b""):
                line = lines.readline()
        over.wait(5)

    return talk


OK = b"250 OK\r\n"
#: Greeting, EHLO, MAIL, RCPT, DATA.
UNTIL_THE_MAIL = (b"220 hello\r\n", OK, OK, OK, b"354 go\r\n")


@pytest.mark.parametrize("answered", range(len(UNTIL_THE_MAIL) + 1))
def test_a_server_that_falls_silent(answered: int) -> None:
    with talking(script(*UNTIL_THE_MAIL[:answered])) as port, pytest.raises(MailNotSent, match="timed out"):
        send(f"smtp://127.0.0.1:{port}", **SHORT)


def test_who_has_accepted_may_fall_silent() -> None:
    with talking(script(*UNTIL_THE_MAIL, b"250 mine\r\n")) as port:
        assert send(f"smtp://127.0.0.1:{port}", **SHORT) == "250 mine"


def test_a_line_without_end() -> None:
    endless = script(b"220 hello\r\n", OK, OK, b"250 " + b"x" * 10_000)
    with talking(endless) as port, pytest.raises(MailNotSent, match="broke off: 500 Line too long"):
        send(f"smtp://127.0.0.1:{port}", **SHORT)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_that_drips_is_cut_off(scheme: str) -> None:
    def drip(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00" if scheme == "smtps" else b"220-")  # a long record, a long line
        while not over.wait(0.05):
            connection.sendall(b"2")

    with talking(drip) as port, pytest.raises(MailNotSent, match=r"took longer than 0\.7 s"):
        send(f"{scheme}://127.0.0.1:{port}", answer_s=5, deadline_s=0.7)


# -- cancelling


def test_a_cancelled_job_sends_nothing() -> None:
    def check() -> None:
        if server.names:
            raise JobCancelled

    with serving() as server, pytest.raises(JobCancelled):
        send(server.url(), check=check)
    assert server.got == []
