"""Requests to hostile URLs: what they may reach, what they carry, when they end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime import guarded_http
from actors.runtime.addresses import refusal
from actors.runtime.errors import PermanentError
from actors.runtime.guarded_http import (
    AddressRefused,
    RequestFailed,
    RequestRefused,
    header_fault,
    request,
    url_fault,
)
from tests.support import wait_for
from tests.unit.hook_server import plain, raw, serving

pytestmark = pytest.mark.unit


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to connect a failure of the test."""

    def connect(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the real resolver read numbers, but never ask a name server."""
    real = socket.getaddrinfo

    def getaddrinfo(host: bytes, port: int, **options: Any) -> Any:
        return real(host, port, **options, flags=socket.AI_NUMERICHOST)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[bytes]:
    """Make every name mean these addresses; returns the list of names that were asked for."""
    asked: list[bytes] = []

    def getaddrinfo(host: bytes, port: int, **_: object) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "3ffe::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "2c0f:fb50::1",
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses())
def test_loopback_is_all_that_the_setting_lifts(address: Any) -> None:
    if refusal(address, allow_loopback=True) != refusal(address):
        inner = getattr(address, "ipv4_mapped", None) or address
        assert inner.is_loopback


@given(st.ip_addresses(network="127.0.0.0/8"))
def test_loopback_can_be_allowed(address: Any) -> None:
    assert refusal(address) == "loopback"
    assert refusal(address, allow_loopback=True) is None
    assert refusal(f"::ffff:{address}", allow_loopback=True) is None


@given(st.ip_addresses())
def test_nothing_is_laxer_than_the_standard_library(address: Any) -> None:
    if refusal(address) is None:
        inner = getattr(address, "ipv4_mapped", None) or address
        assert inner.is_global


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
def test_loopback_is_refused_and_the_variable_named(host: str) -> None:
    with pytest.raises(AddressRefused, match="CALLBOARD_WEBHOOK_ALLOW_LOOPBACK") as caught:
        request("GET", f"http://{host}:9/")
    assert isinstance(caught.value, PermanentError)


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize("allow_loopback", [False, True])
@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "10.1",
        "168.63.129.16",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::]",
    ],
)
def test_inner_addresses_are_refused_whatever_the_setting(host: str, allow_loopback: bool) -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        request("GET", f"http://{host}:9/", allow_loopback=allow_loopback)


@pytest.mark.usefixtures("no_connections")
def test_one_inner_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "8.8.8.8", "2606:4700:4700::1111", "10.0.0.7")
    with pytest.raises(AddressRefused, match=r"hook\.test is not a public address \(private\)") as caught:
        request("GET", "http://hook.test/")
    assert "10.0.0.7" not in str(caught.value)  # what our names mean inside is not the tenant's to learn


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(plain()) as server:
        asked = resolve_to(monkeypatch, "127.0.0.1")
        answer = request("GET", f"http://hook.test:{server.port}/a?b=c#d", allow_loopback=True)
    assert answer.status == 200
    assert asked == [b"hook.test"]  # once: a second answer could differ
    assert server.seen[0].headers["host"] == f"hook.test:{server.port}"
    assert server.seen[0].path == "/a?b=c"


def test_another_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(plain()) as server:
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        assert request("GET", f"http://hook.test:{server.port}/", allow_loopback=True).status == 200


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "",
        "http://",
        "http:///path",
        "http://user:secret@example.com/",
        "http://user@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/\r\nX-Injected: 1",
        "http://example.com/\0",
        "http://example.com/\ud800",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http://[::1",
        "http://example.com/" + "a" * 2048,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    assert url_fault(url)
    with pytest.raises(RequestRefused, match="the URL ") as caught:
        request("GET", url, allow_loopback=True)
    str(caught.value).encode()


@pytest.mark.usefixtures("no_connections", "no_questions")
@pytest.mark.parametrize(
    "url",
    [
        "http://0177.0.0.1/",
        "http://127.0.0.1.:9/",
        "http://256.256.256.256/",
        "http://[v1.x]/",
        "http://a..b/",
        "http://" + "a" * 64 + ".test/",
        "http://xn--/",
        "http://%00/",
    ],
)
def test_odd_names_fail_with_words(url: str) -> None:
    with pytest.raises((RequestRefused, RequestFailed)):
        request("GET", url)


@pytest.mark.usefixtures("no_connections")
def test_a_name_that_does_not_resolve_is_worth_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(RequestFailed, match=r"hook\.test cannot be resolved: Temporary failure") as caught:
        request("GET", "http://hook.test/")
    assert not isinstance(caught.value, PermanentError)


@pytest.mark.usefixtures("no_connections")
def test_a_resolver_that_hangs_is_cut_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    started = monotonic()
    with pytest.raises(RequestFailed, match=r"within 0\.3 s"):
        request("GET", "http://hook.test/", deadline_s=0.3)
    assert monotonic() - started < 3
    release.set()
    wait_for(lambda: not any(t.name == "callboard-resolve" for t in threading.enumerate()), 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "other"),
        ("content-length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("CONNECTION", "upgrade"),
        ("Webhook-Id", "msg_1"),
        ("Expect", "100-continue"),
        ("X-A", "b\r\nX-C: d"),
        ("X-A", "b\n"),
        ("X-A", "\0"),
        ("X-A", "€"),
        ("X-A", "x" * 8193),
        ("X A", "b"),
        ("X-A:", "b"),
        ("X-A\r\n", "b"),
        ("X-Ä", "b"),
        ("", "b"),
    ],
)
def test_headers_that_are_refused(name: str, value: str) -> None:
    assert header_fault(name, value)
    with pytest.raises(RequestRefused, match="the header "):
        request("GET", "http://127.0.0.1:9/", headers={name: value}, allow_loopback=True)


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with serving(plain(201, b"made", X_Reply="yes")) as server:
        answer = request(
            "POST",
            f"{server.url}/hook",
            headers={"X-Mine": " caf\xe9 ", "User-Agent": "mine"},
            own_headers={"User-Agent": "ours", "webhook-id": "msg_1"},
            content=b"body",
            allow_loopback=True,
        )
    assert (answer.status, answer.body, answer.truncated) == (201, b"made", False)
    assert answer.headers["x-reply"] == "yes"
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/hook", b"body")
    assert seen.headers == {
        "host": f"127.0.0.1:{server.port}",
        "x-mine": "caf\xe9",
        "user-agent": "mine",
        "webhook-id": "msg_1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "4",
    }


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with serving(plain()) as inner, serving(plain(302, b"", Location=inner.url)) as outer:
        assert request("GET", outer.url, allow_loopback=True).status == 302
    assert inner.seen == []
    assert len(outer.seen) == 1


def test_reading_stops_at_the_bound() -> None:
    with serving(plain(body=b"x" * 100)) as server:
        exact = request("GET", server.url, max_response_bytes=100, allow_loopback=True)
        less = request("GET", server.url, max_response_bytes=99, allow_loopback=True)
    assert (len(exact.body), exact.truncated) == (100, False)
    assert (len(less.body), less.truncated) == (99, True)
    endless = raw(b"HTTP/1.1 200 OK\r\n\r\n", drip=b"x" * 65536, every_s=0.001)
    with serving(endless) as server:
        answer = request("GET", server.url, allow_loopback=True)
    assert (len(answer.body), answer.truncated) == (64 * 1024, True)


def test_a_compressed_answer_is_kept_as_sent() -> None:
    with serving(plain(body=b"\x1f\x8bbomb", Content_Encoding="gzip")) as server:
        assert request("GET", server.url, allow_loopback=True).body == b"\x1f\x8bbomb"


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", drip=b"x"),
        raw(b"HTTP/1.1 200 OK\r\nX-Slow: ", drip=b"x"),
        raw(b"", drip=b"HTTP/1.1 100 Continue\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", drip=b"1\r\nx\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n\r\n", drip=b"x", every_s=30),
    ],
    ids=["body", "header", "interim", "chunks", "silence"],
)
def test_a_server_that_drips_is_cut_at_the_deadline(answer: Any) -> None:
    started = monotonic()
    with serving(answer) as server:
        with pytest.raises(RequestFailed, match=r"no complete answer within 0\.6 s"):
            request("GET", server.url, deadline_s=0.6, allow_loopback=True)
        assert 0.5 < monotonic() - started < 3


def test_a_server_that_does_not_read_is_cut_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts in the kernel, reads nothing
        started = monotonic()
        with pytest.raises(RequestFailed, match=r"within 0\.6 s"):
            request(
                "POST",
                f"http://127.0.0.1:{listener.getsockname()[1]}/",
                content=b"x" * 50_000_000,
                deadline_s=0.6,
                allow_loopback=True,
            )
        assert monotonic() - started < 3


def test_a_tls_handshake_that_hangs_is_cut_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = monotonic()
        with pytest.raises(RequestFailed, match=r"127\.0\.0\.1: no complete answer within 0\.6 s"):
            request("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/", deadline_s=0.6, allow_loopback=True)
        assert monotonic() - started < 3


def test_what_check_raises_ends_the_request() -> None:
    class CancelledError(Exception):
        pass

    arrived = threading.Event()

    def hold(_: object, server: Any) -> None:
        arrived.set()
        server.done.wait(30)

    def check() -> None:
        if arrived.is_set():
            raise CancelledError

    started = monotonic()
    with serving(hold) as server:
        with pytest.raises(CancelledError):
            request("GET", server.url, allow_loopback=True, check=check)
        assert monotonic() - started < 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not a valid HTTP answer"),
        (b"", "not a valid HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxy", "not a valid HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "not a valid HTTP answer"),
    ],
    ids=["ssh", "nothing", "short", "huge header"],
)
def test_answers_that_are_no_http(data: bytes, reason: str) -> None:
    with serving(raw(data)) as server, pytest.raises(RequestFailed, match=reason):
        request("GET", server.url, allow_loopback=True)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RequestFailed, match=r"127\.0\.0\.1: cannot connect: Connection refused"):
        request("GET", f"http://127.0.0.1:{port}/", allow_loopback=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for hook.test (cert.pem) and its key (key.pem)."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=hook.test", "-addext", "subjectAltName=DNS:hook.test"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_tls_is_verified_against_the_urls_host(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    tls.sni_callback = lambda _, name, __: names.append(name)
    resolve_to(monkeypatch, "127.0.0.1")
    with serving(plain(), tls) as server:
        guarded_http._ssl_context.cache_clear()
        with pytest.raises(RequestFailed, match="certificate refused, self-signed"):
            request("GET", f"https://hook.test:{server.port}/", allow_loopback=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        guarded_http._ssl_context.cache_clear()
        try:
            assert request("GET", f"https://hook.test:{server.port}/", allow_loopback=True).status == 200
            with pytest.raises(RequestFailed, match="certificate refused, Hostname mismatch"):
                request("GET", f"https://other.test:{server.port}/", allow_loopback=True)
        finally:
            guarded_http._ssl_context.cache_clear()
    assert names == ["hook.test", "hook.test", "other.test"]


def test_importing_it_does_not_import_httpx() -> None:
    code = "import sys, actors.runtime.guarded_http; sys.exit('httpx' in sys.modules or 'httpcore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
