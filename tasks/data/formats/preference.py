"""Preference rows: two answers of which one is better (DPO), or one answer and whether it is wanted (KTO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from tasks.core.sections import DataParams
from tasks.data.formats.unfit import Unfit

NAME = "preference"

_ANSWERED = ("messages", "conversations", "completion")


def recognises(value: Mapping[str, Any]) -> bool:
    """`chosen` and `rejected`; a boolean `label` beside an answer; a boolean `kto_tag`."""
    if "rejected" in value and "chosen" in value:
        return True
    if "kto_tag" in value:
        return _is_verdict(value["kto_tag"])
    return "label" in value and _is_verdict(value["label"]) and any(key in value for key in _ANSWERED)


def _is_verdict(label: object) -> bool:
    """Cells of a table are text."""
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))


def convert(value: Mapping[str, Any], params: DataParams) -> NoReturn:
    """Always refused: an unwanted answer must not be learned as if it were wanted."""
    raise Unfit(
        "preference row",
        "a preference row (chosen and rejected, or a label): there is no preference method yet, so the row is kept in "
        "the quarantine and not trained on",
    )
