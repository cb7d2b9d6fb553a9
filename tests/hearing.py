"""A sink of events that keeps what it is told."""

from __future__ import annotations

from typing import Any


class Heard:
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        self.told.append((kind, fields))

    def texts(self, *kinds: str) -> list[str]:
        """Of notes and warnings, or of these kinds."""
        return [fields["text"] for kind, fields in self.told if kind in (kinds or ("note", "warning"))]
