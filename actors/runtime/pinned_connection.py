"""httpcore connections that go to addresses chosen beforehand and end at one deadline.

Imported only when a request is made: httpx and httpcore cost more than the rest of ``import actors``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

import httpcore

#: Seconds in one system call that waits for bytes: how late a cancel or Dramatiq's time limit is noticed.
POLL_S = 0.5

#: What ``getaddrinfo`` names one address: family and the socket's own form of it.
Target = tuple[socket.AddressFamily, tuple[Any, ...]]


class Deadline:
    """One moment at which everything must have ended; ``check`` is called now and then while waiting."""

    def __init__(self, seconds: float, check: Callable[[], None] | None = None) -> None:
        self.seconds = seconds
        self._at = monotonic() + seconds
        self._check = check
        self._next_check = monotonic()

    def left(self, error: type[Exception] = httpcore.ReadTimeout) -> float:
        """Seconds left, more than 0.

        Raises:
          error: the deadline has passed.
        """
        now = monotonic()
        if self._check is not None and now >= self._next_check:
            self._next_check = now + POLL_S
            self._check()
        left = self._at - now
        if left <= 0:
            raise error(f"no complete answer within {self.seconds:g} s")
        return left


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the given addresses whatever host it is asked for.

    Host header, SNI and the certificate check stay with the URL's host: httpcore takes those from the URL.
    """

    def __init__(self, targets: Sequence[Target], deadline: Deadline) -> None:
        self._targets = targets
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Try each address; a silent one gets its share of the time and no more."""
        failure: OSError | None = None
        for position, (family, address) in enumerate(self._targets):
            share = self._deadline.left(httpcore.ConnectTimeout) / (len(self._targets) - position)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a host without IPv6
                failure = error
                continue
            try:
                sock.settimeout(share)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:  # Dramatiq interrupts threads anywhere
                sock.close()
                raise
            else:
                return _Stream(sock, self._deadline)
        self._deadline.left(httpcore.ConnectTimeout)
        raise httpcore.ConnectError(f"cannot connect: {_plain(failure)}") from failure


class _Stream(httpcore.NetworkStream):
    """A socket whose every wait is cut at the deadline.

    httpx counts its time-outs per read, so a server that sends one byte a second holds it for ever.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            self._sock.settimeout(min(POLL_S, self._deadline.left()))
            try:
                return self._sock.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.ReadError(f"the connection broke: {_plain(error)}") from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            self._sock.settimeout(min(POLL_S, self._deadline.left(httpcore.WriteTimeout)))
            try:
                rest = rest[self._sock.send(rest) :]
            except TimeoutError:
                continue
            except OSError as error:  # httpcore then still looks for an answer: a server may refuse a body early
                raise httpcore.WriteError(f"the connection broke: {_plain(error)}") from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            # Since Python 3.5 a socket's time-out bounds the whole handshake, not one read of it.
            self._sock.settimeout(self._deadline.left(httpcore.ConnectTimeout))
            sock = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
        except TimeoutError:
            self.close()
            self._deadline.left(httpcore.ConnectTimeout)
            raise httpcore.ConnectTimeout("the TLS handshake timed out") from None
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(f"TLS failed: {_plain(error)}") from error
        except BaseException:
            self.close()
            raise
        return _Stream(sock, self._deadline)

    def close(self) -> None:
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._sock, ssl.SSLSocket):
            return self._sock
        return None


def _plain(error: OSError | None) -> str:
    """What went wrong, without numbers and source lines of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "protocol error").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no answer"
    return (error and error.strerror) or "no address"
