"""A peer that speaks OpenAI's chat completions over HTTP, as its maker decides what it says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | tuple[int, bytes]
"""A judge's words, or a status with a body."""


@dataclass
class Peer:
    """`heard`: bodies as they came; `keys`: their Authorization headers."""

    url: str
    heard: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: list[str | None] = field(default_factory=list[str | None])

    @property
    def questions(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.heard]


def answers(question: str) -> tuple[str, str]:
    """A's and B's, as the built-in prompt shows them."""
    found = re.findall(r"\[answer [AB]\]\n(.*?)\n\[end of answer [AB]\]", question, re.DOTALL)
    return found[0], found[1]


@contextmanager
def serving(say: Callable[[str], Reply]) -> Generator[Peer]:
    """`say` gets each question's text; several at once."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            peer.heard.append(body)
            peer.keys.append(self.headers.get("Authorization"))
            said = say(body["messages"][0]["content"]) if self.path == "/v1/chat/completions" else (404, b"not here")
            if isinstance(said, str):
                message = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
                said = 200, json.dumps({"object": "chat.completion", "choices": [message]}).encode()
            self.send_response(said[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said[1])))
            self.end_headers()
            self.wfile.write(said[1])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        peer = Peer(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()
