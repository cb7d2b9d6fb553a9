"""What a running step tells whoever watches it: JSON lines in `$TUNELINE_RUN_DIR`, a progress line on a terminal.

Events are for people and never reach anything that is hashed. Kinds: `progress` (done, total, and any
figures), `note` (text), `warning` (text), `error` (type, message), `result` (facts).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

FILE = "events.jsonl"


class Sink(Protocol):
    def emit(self, kind: str, fields: dict[str, Any]) -> None: ...


class Silent:
    """A step called as a plain function says nothing."""

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        pass


class Lines:
    """Appends one JSON object a line, flushed at once so that a reader sees it live."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / FILE).open("a", encoding="utf-8", buffering=1)

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, "at": time.time(), **fields}, ensure_ascii=False) + "\n")


class Terminal:
    """One line rewritten in place on a terminal; a line every few seconds in a log file."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        self._live = sys.stderr.isatty()
        self._every = 0.1 if self._live else every_seconds
        self._last = 0.0

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "progress":
            final = fields["done"] >= fields["total"]
            if not final and time.monotonic() - self._last < self._every:
                return
            self._last = time.monotonic()
            end = "\n" if final or not self._live else ""
            print(("\r\033[K" if self._live else "") + describe(fields), end=end, file=sys.stderr, flush=True)
        elif kind in ("note", "warning"):
            print(f"{'warning: ' if kind == 'warning' else ''}{fields['text']}", file=sys.stderr, flush=True)


def describe(progress: dict[str, Any]) -> str:
    """A progress event in one line: `train 40/120 33% loss 0.812 tokens/s 412 eta 96 s`."""
    done, total = progress["done"], progress["total"]
    figures = " ".join(
        f"{name.replace('_per_', '/').replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in progress.items()
        if name not in ("kind", "at", "what", "done", "total")
    )
    return f"{progress['what']} {done}/{total} {100 * done // max(total, 1)}% {figures}".rstrip()


class Both:
    """Hands every event to one sink, then to the other."""

    def __init__(self, first: Sink, second: Sink) -> None:
        self._sinks = (first, second)

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.emit(kind, fields)


_sink: Sink = Silent()


def send_to(sink: Sink) -> None:
    """Choose where events go; the step runner calls this once at the start of a process."""
    global _sink  # noqa: PLW0603  one process runs one step, like logging's root
    _sink = sink


@contextmanager
def also(sink: Sink) -> Generator[None]:
    """Within the block, events go to this sink, too."""
    before = _sink
    send_to(Both(before, sink))
    try:
        yield
    finally:
        send_to(before)


def from_environment() -> Sink:
    folder = os.environ.get("TUNELINE_RUN_DIR")
    return Lines(Path(folder)) if folder else Terminal()


def relay(event: dict[str, Any]) -> None:
    """Pass on an event that another process of the same step told of."""
    _sink.emit(event["kind"], {name: value for name, value in event.items() if name not in ("kind", "at")})


def progress(what: str, done: int, total: int, **figures: float | int | str) -> None:
    _sink.emit("progress", {"what": what, "done": done, "total": total, **figures})


def note(text: str) -> None:
    _sink.emit("note", {"text": text})


def warning(text: str) -> None:
    _sink.emit("warning", {"text": text})


def error(type: str, message: str) -> None:
    _sink.emit("error", {"type": type, "message": message})


def result(**facts: Any) -> None:
    _sink.emit("result", facts)
