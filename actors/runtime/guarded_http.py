"""HTTP requests to URLs that tenants choose, made so that they reach only what they may and end when they must.

The URL is hostile (DESIGN section 11): it may name our own network, a name that changes its address between check
and connect, a server that redirects inwards, answers for ever or sends one byte a second. So: resolve once, check
every address, connect to what was checked; no redirects, proxies, cookies, netrc or decompression; a bounded read and
one deadline for everything, the resolver included.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from actors.runtime.addresses import LOOPBACK, refusal
from actors.runtime.errors import PermanentError
from models.errors import CallboardError
from models.json_data import clean_text

if TYPE_CHECKING:
    from actors.runtime.pinned_connection import Deadline, Target

#: Seconds from the call to the last byte read.
DEADLINE_S = 30.0
#: Bytes of the answer's body that are read and kept.
MAX_RESPONSE_BYTES = 64 * 1024
#: Characters of a URL.
MAX_URL_CHARS = 2048
#: Addresses of one host that are tried.
_MAX_TARGETS = 4

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}")  # RFC 9110 section 5.5: no CR, LF, NUL; Latin-1 at most
#: Headers that belong to the connection (RFC 9110 sections 7.6, 8.6, 10.1.1; RFC 9112) or that say who we are.
_OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "webhook-attempt",
    }
)


class RequestRefused(PermanentError):
    """The request must not be made as it is."""


class AddressRefused(RequestRefused):
    """The URL leads to an address that tenants may not reach."""


class RequestFailed(CallboardError):
    """The request was tried and brought no answer: name resolution, connection, TLS, protocol or deadline."""


@dataclass(frozen=True, slots=True)
class GuardedResponse:
    """An answer, whatever its status.

    Attributes:
      status: 100–599.
      headers: lower-case name → value; repeated ones joined by ", " (RFC 9110 section 5.3).
      body: the first ``max_response_bytes`` of it, as sent (never decompressed).
      truncated: whether there was more.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    truncated: bool


def url_fault(url: str) -> str | None:
    """Say what is wrong with a URL, before anything is resolved; None when nothing is."""
    if len(url) > MAX_URL_CHARS:
        return f"longer than {MAX_URL_CHARS} characters"
    if any(char <= " " or char in "\\\x7f" or "\ud800" <= char <= "\udfff" for char in url):
        return "holds a space, a backslash or a control character"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return clean_text(f"is no URL: {error}", 200)
    if parts.scheme not in ("http", "https"):
        return "must start with http:// or https://"
    if "@" in parts.netloc:
        return "must not carry a user name or password; use a header"
    if not parts.hostname:
        return "names no host"
    if port == 0:
        return "port 0 does not exist"
    return None


def header_fault(name: str, value: str) -> str | None:
    """Say what is wrong with a header that a tenant gave; None when nothing is."""
    if not _TOKEN.fullmatch(name):
        return "is no header name"
    if name.lower() in _OURS:
        return "is set by Callboard and cannot be given"
    if not _FIELD_VALUE.fullmatch(value):
        return "has a value with line breaks, control characters or more than 8,192 characters of Latin-1"
    return None


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    own_headers: Mapping[str, str] | None = None,
    content: bytes = b"",
    deadline_s: float = DEADLINE_S,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
    allow_loopback: bool = False,
    check: Callable[[], None] | None = None,
) -> GuardedResponse:
    """Make one request, following nothing.

    Args:
      method: an HTTP method.
      url: where to; hostile.
      headers: the tenant's headers, checked by :func:`header_fault`; they win over ours where both may be.
      own_headers: headers of ours, unchecked.
      content: the body, sent as it is.
      deadline_s: seconds for everything.
      max_response_bytes: reading stops here.
      allow_loopback: whether 127.0.0.0/8 and ::1 may be reached.
      check: called about every half second while something is awaited; what it raises ends the request.

    Raises:
      RequestRefused: the URL or a header is not acceptable.
      AddressRefused: the host is, or resolves to, an address that may not be reached. Nothing was sent.
      RequestFailed: no complete answer came.
    """
    import httpcore
    import httpx

    from actors.runtime.pinned_connection import Deadline, PinnedBackend

    if fault := url_fault(url):
        raise RequestRefused(f"the URL {fault}")
    merged = {name.lower(): value for name, value in (own_headers or {}).items()}
    for name, value in (headers or {}).items():
        if fault := header_fault(name, value):
            raise RequestRefused(f"the header {clean_text(name, 80)!r} {fault}")
        merged[name.lower()] = value.strip(" \t")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise RequestRefused(clean_text(f"the URL cannot be used: {error}", 300)) from error
    merged.setdefault("accept", "*/*")
    merged.setdefault("accept-encoding", "identity")  # the answer is kept as sent: no decompression bombs
    sends_content = bool(content) or method in ("POST", "PUT", "PATCH")  # RFC 9110 section 8.6
    if sends_content:
        merged["content-length"] = str(len(content))
    merged["connection"] = "close"
    raw_headers = [(b"Host", parsed.netloc)]
    raw_headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in merged.items()]
    target = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path or b"/"
    )

    deadline = Deadline(deadline_s, check)
    try:
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        targets = _resolve(parsed.raw_host, port, deadline, allow_loopback)
        with (
            httpcore.ConnectionPool(
                ssl_context=_ssl_context() if parsed.scheme == "https" else None,
                max_connections=1,
                network_backend=PinnedBackend(targets, deadline),
            ) as pool,
            pool.stream(method, target, headers=raw_headers, content=content if sends_content else None) as response,
        ):
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > max_response_bytes:
                    break
            return GuardedResponse(
                status=response.status,
                headers=_joined(response.headers),
                body=bytes(body[:max_response_bytes]),
                truncated=len(body) > max_response_bytes,
            )
    except (httpcore.TimeoutException, httpcore.NetworkError) as error:
        raise RequestFailed(f"{clean_text(parsed.host, 100)}: {clean_text(error, 200)}") from error
    except httpcore.ProtocolError as error:
        reason = f"not a valid HTTP answer: {clean_text(error, 200)}"
        raise RequestFailed(f"{clean_text(parsed.host, 100)}: {reason}") from error


def _resolve(raw_host: bytes, port: int, deadline: Deadline, allow_loopback: bool) -> list[Target]:
    """Resolve the host once and check every address that came back.

    Forms such as ``127.1``, ``0x7f.1`` and ``2130706433`` are the resolver's to read; its answer is what counts.
    """
    host = clean_text(raw_host.decode("ascii", "replace"), 100)
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        targets = _getaddrinfo(raw_host, port, deadline)
    else:
        targets = [(family, (host, port))]
    for _, address in targets:
        kind = refusal(address[0], allow_loopback=allow_loopback)
        if kind == LOOPBACK:
            raise AddressRefused(
                f"{host} is a loopback address; CALLBOARD_WEBHOOK_ALLOW_LOOPBACK=1 would allow it (for development)"
            )
        if kind is not None:
            # The kind and not the address: what names mean inside our network is not the tenant's to learn.
            raise AddressRefused(f"{host} is not a public address ({kind}); webhooks reach only public ones")
    return targets[:_MAX_TARGETS]


def _getaddrinfo(raw_host: bytes, port: int, deadline: Deadline) -> list[Target]:
    """``socket.getaddrinfo`` with a time-out, which it has not: a thread that nobody waits for any longer."""
    found: list[Target] = []
    failure: list[Exception] = []

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(raw_host, port, type=socket.SOCK_STREAM):
                if family in (socket.AF_INET, socket.AF_INET6):
                    found.append((family, address))
        except (OSError, ValueError) as error:
            failure.append(error)

    thread = threading.Thread(target=look_up, name="callboard-resolve", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(min(0.5, deadline.left()))
    host = clean_text(raw_host.decode("ascii", "replace"), 100)
    if failure:
        reason = getattr(failure[0], "strerror", None) or failure[0]
        raise RequestFailed(f"{host} cannot be resolved: {clean_text(reason, 200)}")
    if not found:
        raise RequestFailed(f"{host} has no address")
    return found


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Verifies certificates and host names; SSL_CERT_FILE and SSL_CERT_DIR may name the operator's own authorities."""
    import httpx

    return httpx.create_ssl_context()


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
