"""TRL's prompt and completion, each a text or a list of messages (its "standard" and "conversational" forms)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.sections import DataParams
from tasks.data.formats import fields, turns

NAME = "completion"


def recognises(value: Mapping[str, Any]) -> bool:
    return "prompt" in value and "completion" in value


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    """The messages of both together, so that a result in the completion finds its call in the prompt."""
    return {"messages": turns.read([*_turns(value, "prompt", "user"), *_turns(value, "completion", "assistant")])}


def _turns(value: Mapping[str, Any], key: str, role: str) -> list[Any]:
    found = value.get(key)
    if isinstance(found, list):
        return fields.listed(value, key)
    return [{"role": role, "content": fields.words(value, key)}]
