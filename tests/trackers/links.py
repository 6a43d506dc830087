"""A link between the gate and an MLflow server, which goes down, loses answers, or spoils them."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Spoilt = tuple[int, str, Iterable[bytes]]
"""Status, type and body of an answer."""
Spoils = Callable[[bytes], Spoilt]


@dataclass
class Link:
    """Stands between the gate and a server; goes down at a request, or loses an answer."""

    target: str
    address: str = ""
    down_at: str = ""
    """How the path of that request ends."""
    after: bool = False
    """Whether the server still gets that request, so that only its answer is lost."""
    down: bool = False
    lost: list[str] = field(default_factory=list)
    """How the paths of requests end whose answer is lost, once each."""
    fails_from: int | None = None
    """The request, counted from 0, from which on whatever comes below happens."""
    spoils: Spoils | None = None
    """What is answered then, given what the server said; None: the connection ends."""
    reaches: bool = True
    """Whether the server still gets such requests."""
    slow_s: float = 0.0
    """How long each answer takes then."""
    asked: list[str] = field(default_factory=list)

    def fails(self, place: int) -> bool:
        """Whether it is a request for which something else than the answer comes back."""
        return self.fails_from is not None and place >= self.fails_from

    def mended(self) -> None:
        """From here on all is well, and counted anew."""
        self.fails_from, self.down, self.down_at, self.slow_s = None, False, "", 0.0
        self.asked.clear()

    def lets_through(self, path: str) -> tuple[bool, bool]:
        """Whether a request reaches the server, and its answer the gate."""
        if self.down:
            return False, False
        if self.down_at and path.endswith(self.down_at):
            self.down = True
            return self.after, False
        losing = next((end for end in self.lost if path.endswith(end)), None)
        if losing is not None:
            self.lost.remove(losing)
        return True, losing is None


class Handler(BaseHTTPRequestHandler):
    """Passes requests on as the link of its server allows."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Proxy"

    def forward(self) -> None:
        link, path = self.server.link, urlsplit(self.path).path
        place = len(link.asked)
        link.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if link.fails(place):
            self.failed(body)
            return
        there, back = link.lets_through(path)
        answer = self.passed_on(body) if there else None
        if answer is None or not back:
            self.cut_off()
            return
        self.passed_back(answer)

    def passed_back(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() in ("content-type", "content-disposition"):
                self.send_header(key, value)
        data = answer.read()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def cut_off(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def failed(self, body: bytes) -> None:
        link = self.server.link
        answer = self.passed_on(body) if link.reaches else None
        time.sleep(link.slow_s)
        if link.spoils is not None:
            self.spoilt(*link.spoils(answer.read() if answer else b"{}"))
        elif link.slow_s and answer is not None:
            with suppress(OSError):  # whoever asked has gone
                self.passed_back(answer)
        else:
            self.cut_off()

    def spoilt(self, status: int, kind: str, chunks: Iterable[bytes]) -> None:
        """Its length is not told: it ends where the connection does."""
        self.close_connection = True
        with suppress(OSError):  # whoever asked has gone
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Connection", "close")
            self.end_headers()
            for chunk in chunks:
                self.wfile.write(chunk)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

    def passed_on(self, body: bytes) -> http.client.HTTPResponse:
        target = urlsplit(self.server.link.target)
        connection = http.client.HTTPConnection(str(target.hostname), target.port or 80)
        headers = {**dict(self.headers.items()), "Host": target.netloc, "Connection": "close"}
        connection.request(self.command, self.path, body, headers)
        return connection.getresponse()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Proxy(ThreadingHTTPServer):
    link: Link


@contextmanager
def link(server: str) -> Iterator[Link]:
    proxy = Proxy(("127.0.0.1", 0), Handler)
    proxy.link = Link(server, f"http://127.0.0.1:{proxy.server_address[1]}")
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy.link
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
