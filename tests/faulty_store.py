"""A proxy before a real S3 store that misbehaves on purpose."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reset: bool = False


Fault = Callable[[str, str, Answer], Answer | None]
"""Sees the method, the path and the store's own answer; gives the one to send, or None to hang up."""


@dataclass
class Proxy:
    """Answers what `spoil` answers; forwards everything else to the real store and lets `fault` change its answer."""

    upstream: str
    fault: Fault = field(default=lambda _method, _path, answer: answer)
    spoil: Callable[[str, str], Answer | None] = field(default=lambda _method, _path: None)
    seen: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list[tuple[str, str, Mapping[str, str]]])

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        self.seen.append((method, path, headers))
        if (answer := self.spoil(method, path)) is not None:
            return answer
        connection = http.client.HTTPConnection(self.upstream)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, response.getheaders(), response.read())
        connection.close()
        return self.fault(method, path, answer)


def handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = proxy.forward(self.command, self.path, dict(self.headers.items()), body)
            self.close_connection = True
            if answer is None:
                return
            self.send_response_only(answer.status)
            named = dict(answer.headers)
            named.setdefault("Content-Length", str(len(answer.body)))
            for name, value in named.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = any  # noqa: N815  http.server looks for these names

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def proxied(endpoint: str) -> Generator[tuple[Proxy, str]]:
    """A proxy before the store at this endpoint, and the proxy's own endpoint."""
    proxy = Proxy(urlsplit(endpoint).netloc)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(proxy))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def once(spoil: Callable[[Answer], Answer | None], method: str, part: str = "") -> Fault:
    """Spoil the first answer to such a request, and no other."""
    left = [1]

    def fault(seen: str, path: str, answer: Answer) -> Answer | None:
        if seen == method and part in path and left and left.pop():
            return spoil(answer)
        return answer

    return fault


def first_put_lost() -> Fault:
    """The first answer to a PUT of each path never arrives."""
    seen: set[tuple[str, str]] = set()

    def fault(method: str, path: str, answer: Answer) -> Answer | None:
        first = (method, path) not in seen
        seen.add((method, path))
        return None if first and method == "PUT" else answer

    return fault


def refusal(status: int, code: str, said: str = "no") -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml")], body)


def cut(answer: Answer, keep: int) -> Answer:
    """The right Content-Length and too few bytes."""
    headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
    return Answer(answer.status, [*headers, ("Content-Length", str(len(answer.body)))], answer.body[:keep])
