"""Formats: one landed value becomes one canonical row, or is unfit with a reason. One file a format.

Recognition goes by content, in the order of NAMES, and the first that recognises the value converts it: preference
rows first, so that none is trained on by accident; then what `data.columns` names; then the line's own rows; then the
formats of others from the most to the least telling key. `data.format` names one instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from tasks.core.errors import ParamsError
from tasks.core.sections import DataParams
from tasks.data.formats import (
    alpaca,
    calls,
    canonical,
    clean,
    columns,
    completion,
    fields,
    images,
    labels,
    messages,
    preference,
    sharegpt,
)
from tasks.data.formats.unfit import KINDS, Kind, Unfit
from tasks.data.rows import Row

__all__ = ["KINDS", "NAMES", "Kind", "Unfit", "recognise", "to_row"]

Convert = Callable[[Mapping[str, Any], DataParams], dict[str, Any]]

_FORMATS: dict[str, Convert] = {
    preference.NAME: preference.convert,
    columns.NAME: columns.convert,
    canonical.NAME: canonical.convert,
    messages.NAME: messages.convert,
    sharegpt.NAME: sharegpt.convert,
    alpaca.NAME: alpaca.convert,
    completion.NAME: completion.convert,
}
NAMES: tuple[str, ...] = tuple(_FORMATS)
_BY_KEYS = (messages, sharegpt, alpaca, completion)


def to_row(value: Mapping[str, Any], *, source: str, params: DataParams) -> Row:
    """The row that a value is; `source` is its source's name, unless it names one itself.

    Unfit: it is none, and why. ParamsError: data.format is no format's name.
    Laws: text changes only by the rules of `clean`; a row that this function made is made again from what `to_line`
    wrote of it. No JSON value raises anything else.
    """
    value = fields.mapping(value, "the row")
    name = recognise(value, params) if params.format == "auto" else params.format
    if name not in _FORMATS:
        raise ParamsError(f"data.format: there is no format {name!r}; known are auto, {', '.join(NAMES)}")
    draft = _FORMATS[name](value, params)
    if name != canonical.NAME:
        draft = _completed(draft, value)
    tags = [tag for tag in draft.pop("tags", ()) if tag]
    about = labels.of(value, source)
    if tags:
        about["tags"] = [*about.get("tags", ()), *(clean.text(tag, "tags") for tag in tags)]
    return _checked(_cleaned(draft) | about)


def recognise(value: Mapping[str, Any], params: DataParams) -> str:
    """The name of the value's format. Unfit: none recognises it."""
    if preference.recognises(value):
        return preference.NAME
    if params.columns and columns.mapping(value, params):
        return columns.NAME
    if canonical.recognises(value):
        return canonical.NAME
    for module in _BY_KEYS:
        if module.recognises(value):
            return module.NAME
    found = ", ".join(repr(key[:40]) for key in list(value)[:12]) or "nothing"
    raise Unfit("unknown format", f"no known format: found the keys {found}; map them in data.columns, or mend the row")


def _completed(draft: dict[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """What foreign formats share: `system`, `tools` and `images` beside the messages."""
    found: list[dict[str, Any]] = draft["messages"]
    system = draft.pop("system", "") or fields.words(value, "system")
    if system.strip():
        found.insert(0, {"role": "system", "content": system})
    images.place(found, images.of(value))
    return {**draft, "tools": calls.tools(value)}


def _cleaned(draft: dict[str, Any]) -> dict[str, Any]:
    found = [clean.message(message, f"messages[{number}]") for number, message in enumerate(draft["messages"])]
    if not found:
        raise Unfit("no conversation", "the conversation holds no messages")
    if found[-1].get("role") != "assistant":
        raise Unfit("no answer", f"the conversation ends with the {found[-1].get('role')}: there is no answer to learn")
    tools = clean.json(draft["tools"], "tools") if draft.get("tools") else []
    return {**draft, "messages": found, "tools": tools}


def _checked(draft: dict[str, Any]) -> Row:
    """A row without an id is called by its content: equal conversations have equal ids."""
    named = "id" in draft
    try:
        row = Row.model_validate(draft if named else {**draft, "id": "-"})
    except ValidationError as error:
        raise _unfit(error) from None
    return row if named else row.model_copy(update={"id": row.content_digest[:16]})


def _unfit(error: ValidationError) -> Unfit:
    """The first complaint, on one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(map(str, first["loc"]))
    reason = f"{path}: {first['msg']}" if path else first["msg"].removeprefix("Value error, ")
    kinds: dict[str, Kind] = {"extra_forbidden": "unknown key", "value_error": "tool call" if path else "role order"}
    return Unfit(kinds.get(first["type"], "wrong type"), reason.replace("Value error, ", ""))
