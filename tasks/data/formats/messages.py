"""OpenAI's chat format: `messages` of `role` and `content`, with `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.sections import DataParams
from tasks.data.formats import fields, turns

NAME = "messages"


def recognises(value: Mapping[str, Any]) -> bool:
    return value.get("messages") is not None


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    return {"messages": turns.read(fields.listed(value, "messages"))}
