"""Why a value is no row of the line."""

from __future__ import annotations

from typing import Literal, get_args

from tasks.core.errors import DataError

Kind = Literal[
    "unknown format",
    "preference row",
    "wrong type",
    "unknown key",
    "no conversation",
    "no answer",
    "blank turn",
    "unknown role",
    "role order",
    "tool call",
    "tools",
    "image",
    "not learnable",
    "control character",
    "combining marks",
    "out of range",
    "too deep",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Unfit(DataError):
    """The value can't become a row. `kind` is stable and few, so that reasons can be counted; the message has the detail."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind
