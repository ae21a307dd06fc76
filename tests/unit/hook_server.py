"""A small HTTP server on 127.0.0.1 that answers as a test tells it and remembers what it got."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HookServer:
    """The running server; ``seen`` grows, ``done`` is set when it is going down (for handlers that wait)."""

    url: str
    port: int
    seen: list[Seen] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


#: Writes the whole answer; gets the handler and the server.
Answer = Callable[[BaseHTTPRequestHandler, HookServer], None]


def plain(status: int = 200, body: bytes = b"ok", **headers: str) -> Answer:
    """An ordinary answer; header names have ``_`` for ``-``."""

    def answer(handler: BaseHTTPRequestHandler, server: HookServer) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def raw(data: bytes, *, drip: bytes = b"", every_s: float = 0.05) -> Answer:
    """These bytes, then ``drip`` again and again until the client goes or the test ends."""

    def answer(handler: BaseHTTPRequestHandler, server: HookServer) -> None:
        handler.close_connection = True
        handler.wfile.write(data)
        while drip and not server.done.wait(every_s):
            handler.wfile.write(drip)

    return answer


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave early are what some tests are about."""


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[HookServer]:
    """Run a server whose every request gets ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            server.seen.append(
                Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body),
            )
            answer(self, server)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    http = _Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    port = http.server_address[1]
    server = HookServer(f"{'http' if tls is None else 'https'}://127.0.0.1:{port}", port)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.done.set()
        http.shutdown()
        http.server_close()
        thread.join()
