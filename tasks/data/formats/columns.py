"""Tables of questions and answers whose columns `data.columns` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.sections import Columns, DataParams
from tasks.data.formats import fields
from tasks.data.formats.unfit import Unfit

NAME = "columns"


def mapping(value: Mapping[str, Any], params: DataParams) -> Columns | None:
    """The first mapping all of whose columns are in the row."""
    return next((columns for columns in params.columns if all(name in value for name in _names(columns))), None)


def _names(columns: Columns) -> list[str]:
    system = [] if columns.system is None else [columns.system]
    return [columns.prompt, columns.completion, *system, *columns.tags]


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    """Each tag column's text is a tag. Unfit: no mapping fits."""
    columns = mapping(value, params)
    if columns is None:
        raise Unfit(
            "unknown format", f"no mapping in data.columns has all its columns in the row: {', '.join(value)[:200]}"
        )
    messages = [
        {"role": "user", "content": fields.words(value, columns.prompt)},
        {"role": "assistant", "content": fields.words(value, columns.completion)},
    ]
    system = fields.words(value, columns.system) if columns.system else ""
    return {"messages": messages, "system": system, "tags": [fields.words(value, name) for name in columns.tags]}
