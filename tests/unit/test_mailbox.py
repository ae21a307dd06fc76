"""The development mailbox: what is kept, how it is shown, and who may do what from where."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.mail_message import Mail
from actors.runtime.smtp import MailNotSent, hand_over
from dev.services.mailbox import SERVICE, USER, store
from dev.services.mailbox.letter import read
from dev.services.mailbox.reception import listen, printable
from dev.services.mailbox.site import make_app
from dev.services.mailbox.store import Store, Stored
from models.mail import mail_server

BASE = "http://127.0.0.1"
PASSWORD = "only-for-tests"


def source(subject: str = "Hello", body: str = "Hi", kind: str = "plain") -> bytes:
    return (
        f"From: Shop <shop@example.com>\r\nTo: eve@example.net\r\nSubject: {subject}\r\nMessage-ID: <1@x>\r\n"
        f'Content-Type: text/{kind}; charset="utf-8"\r\n\r\n{body}\r\n'
    ).encode()


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "mailbox")


class Client:
    """Asks the application directly."""

    def __init__(self, box: Store) -> None:
        self.transport = httpx.ASGITransport(make_app(box))

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url=BASE) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.call("POST", path, **more)


@pytest.fixture
def client(box: Store) -> Client:
    return Client(box)


def keep(box: Store, content: bytes = source()) -> Stored:
    return box.keep("shop@example.com", ["eve@example.net"], content)


# -- the store


def test_mail_is_kept_in_order_and_privately(box: Store) -> None:
    kept = [keep(box, source(str(number))).id for number in range(5)]
    assert Store(box.folder).ids() == kept[::-1]
    assert (box.folder.stat().st_mode & 0o777, {p.stat().st_mode & 0o777 for p in box.folder.iterdir()}) == (
        0o700,
        {0o600},
    )


def test_the_oldest_go(box: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_MAILS", 3)
    kept = [keep(box).id for _ in range(5)]
    assert box.ids() == kept[:1:-1]
    monkeypatch.setattr(store, "MAX_BYTES", 1000)
    large = keep(box, source(body="x" * 2000)).id
    assert box.ids() == [large]


@pytest.mark.parametrize("mail_id", ["", "1", "../up", "/etc/passwd", "0" * 16, "0" * 15 + "٣"])
def test_what_is_no_mail(box: Store, mail_id: str) -> None:
    keep(box)
    assert box.find(mail_id) is None


# -- letters


def test_a_mail_is_read(box: Store) -> None:
    letter = read(keep(box, source("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Hi  Eve\r\n  and  all")))
    assert (letter.to, letter.sender, letter.subject) == ("eve@example.net", "Shop <shop@example.com>", "Grüße")
    assert (letter.text, letter.html, letter.preview) == ("Hi  Eve\n  and  all\n", None, "Hi Eve and all")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [b"Subject: ", b"From: ", b"To: ", b"Content-Type: ", b"multipart/mixed; boundary=b", b"text/html", b"\r\n",
             b"--b", b"--b--", b"charset=nope", b"=?utf-8?q?=ff?=", b"Content-Transfer-Encoding: base64", b"<>@,;:",
             b"\xff"]
        )
    ).map(b"".join)
)  # fmt: skip
def test_anything_can_be_shown(content: bytes) -> None:
    letter = read(Stored("0000000000000001", content))
    assert letter.details()["id"] == "0000000000000001"
    f"{letter}".encode()


def test_nothing_in_a_subject_reaches_the_terminal() -> None:
    assert printable("a\x1b[31m\r\n\u202eb é") == "a\ufffd[31m\ufffd\ufffd\ufffdb é"


# -- pages


def test_an_empty_mailbox_says_how_to_fill_it(client: Client) -> None:
    page = client.get("/")
    assert "Nothing has been sent yet" in page.text
    assert client.get("/api/messages").json() == {"messages": []}


def test_the_list_and_one_mail(client: Client, box: Store) -> None:
    first, second = keep(box, source("First")), keep(box, source("Second"))
    page = client.get("/").text
    assert page.index("Second") < page.index("First")
    assert f'href="/messages/{second.id}"' in page
    letter = client.get(f"/messages/{first.id}").text
    assert "First" in letter
    assert "Hi\n</pre>" in letter
    download = client.get(f"/messages/{first.id}/source")
    assert download.content == first.source
    assert download.headers["content-disposition"] == f'attachment; filename="{first.id}.eml"'


def test_the_same_as_json(client: Client, box: Store) -> None:
    stored = keep(box)
    [summary] = client.get("/api/messages").json()["messages"]
    assert summary == {
        "id": stored.id,
        "received_at": summary["received_at"],
        "from": "Shop <shop@example.com>",
        "to": "eve@example.net",
        "subject": "Hello",
        "message_id": "<1@x>",
        "text": "Hi\n",
        "html": None,
        "size": len(stored.source),
    }
    details = client.get(f"/api/messages/{stored.id}").json()
    assert details.items() >= summary.items()
    assert ["Delivered-To", "eve@example.net"] in details["head"]
    assert client.get("/api/messages?to=eve@example.net").json()["messages"] == [summary]
    assert client.get("/api/messages?to=x@example.net").json()["messages"] == []


def test_nothing_in_a_mail_becomes_markup(client: Client, box: Store) -> None:
    evil = "<script>alert(1)</script>"
    stored = keep(box, source(evil, evil))
    for path in ("/", f"/messages/{stored.id}"):
        assert evil not in client.get(path).text


def test_a_mails_document_is_caged(client: Client, box: Store) -> None:
    stored = keep(box, source(body="<!doctype html><p>Hi<script>alert(1)</script>", kind="html"))
    page = client.get(f"/messages/{stored.id}").text
    assert '<iframe sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    document = client.get(f"/messages/{stored.id}/document")
    policy = document.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none';")
    assert "script-src" not in policy
    assert document.text.startswith('<!doctype html><base target="_blank"><p>Hi')


def test_every_page_has_a_strict_policy(client: Client, box: Store) -> None:
    stored = keep(box)
    for path in ("/", f"/messages/{stored.id}", "/messages/1"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_what_is_not_there(client: Client) -> None:
    assert client.get("/messages/1").status_code == 404
    assert client.get("/api/messages/1").status_code == 404
    assert client.get("/messages/..%2F..%2Fsecrets.json/source").status_code == 404
    assert client.get("/static/..%2Fsite.py").status_code == 404


def test_a_page_of_another_name_gets_nothing(client: Client, box: Store) -> None:
    """DNS rebinding: a name of the Internet that leads to 127.0.0.1."""
    keep(box)
    assert client.get("/api/messages", headers={"Host": "evil.example:8025"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8025"}).status_code == 200


def test_the_button_empties_the_mailbox_and_nobody_elses_does(client: Client, box: Store) -> None:
    keep(box)
    assert client.post("/empty", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/empty", headers={"Origin": "null"}).status_code == 403
    assert len(box.ids()) == 1
    assert client.post("/empty", headers={"Origin": BASE}).headers["location"] == "/"
    assert box.ids() == []
    keep(box)
    assert client.call("DELETE", "/api/messages").status_code == 204
    assert box.ids() == []


# -- reception


@contextmanager
def receiving(box: Store) -> Iterator[int]:
    """The mailbox's mail server; gives its port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(listen(box, 0, USER, PASSWORD))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def hand_in(port: int, password: str = PASSWORD, **more: Any) -> str:
    mail = Mail("shop@example.com", "käthe@example.net", "<1@x>", source(), needs_utf8=True)
    return hand_over(mail_server(f"smtp://{USER}:{password}@127.0.0.1:{port}"), mail, **more)


def test_mail_is_taken_from_who_knows_the_password(box: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with receiving(box) as port:
        answer = hand_in(port)
        with pytest.raises(MailNotSent, match="does not accept user and password"):
            hand_in(port, "wrong")
    [mail_id] = box.ids()
    assert answer == f"250 2.0.0 kept as {mail_id}"
    stored = box.find(mail_id)
    assert stored is not None
    assert read(stored).to == "käthe@example.net"
    assert capsys.readouterr().out == "mail for käthe@example.net: Hello\n"


def test_a_mail_that_cannot_be_kept_is_refused_for_now(box: Store) -> None:
    box.folder.rmdir()
    with receiving(box) as port, pytest.raises(MailNotSent, match="452"):
        hand_in(port)


def test_the_service_describes_itself() -> None:
    ports = {name: number for number, name in enumerate(SERVICE.ports, 1000)}
    variables = SERVICE.variables(ports, "s3cret")
    server = mail_server(variables[SERVICE.setting])
    assert (server.host, server.port, server.user, server.password) == ("127.0.0.1", ports["smtp"], USER, "s3cret")
    assert SERVICE.up_json(ports) == {"mailbox_url": f"http://127.0.0.1:{ports['page']}"}
    assert f"dev.services.{SERVICE.name}" == SERVICE.variables.__module__
