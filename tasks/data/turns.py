"""A base's chat templates and the convention for tools, as one: messages and tools in, rendered text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.core.errors import DataError
from tasks.data import tool_text
from tasks.data.rows import Message
from tasks.data.template import ChatTemplate, Rendered

Tools = Literal["template", "text"]
Turn = dict[str, Any]

_SAID = {role: f"zq{role}zq" for role in ("system", "user", "assistant", "tool")}
_ASKED: list[Turn] = [{"role": "user", "content": _SAID["user"]}]
_PLAIN: list[Turn] = [*_ASKED, {"role": "assistant", "content": _SAID["assistant"]}]
_WITH_SYSTEM: list[Turn] = [{"role": "system", "content": _SAID["system"]}, *_PLAIN]
_CALL = {"type": "function", "function": {"name": "zqcallzq", "arguments": {"zqkeyzq": "zqvaluezq"}}}
_WITH_TOOLS: list[Turn] = [
    *_ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "zqcallzq", "content": _SAID["tool"]},
    {"role": "assistant", "content": _SAID["assistant"]},
]
_TOOL = {
    "type": "function",
    "function": {
        "name": "zqlistedzq",
        "description": "zqdescribedzq",
        "parameters": {"type": "object", "properties": {}},
    },
}


class Turns:
    """`tools` says who writes tools: the base's own template, or `tasks.data.tool_text`, found out by rendering a call
    and looking for its words."""

    def __init__(self, folder: Path) -> None:
        self._default = ChatTemplate.of_model(folder)
        self._tooled = ChatTemplate.of_model(folder, "tool_use")
        self.tools: Tools = "template" if _writes_tools(self._tooled) else "text"
        self._drops_system = _SAID["system"] not in (_rendered(self._default, _WITH_SYSTEM, ()) or _SAID["system"])
        self.cue = self._default.cue

    def written(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], list[Turn]]:
        """Messages and tools as the template takes them. DataError: a message holds an image."""
        if self.tools == "template":
            return tool_text.for_template(messages), tool_text.described(tools)
        return tool_text.as_text(messages, tools), []

    def conversation(self, turns: Sequence[Turn], tools: Sequence[Turn]) -> Rendered:
        """The whole conversation. DataError: see `ChatTemplate.conversation`."""
        return self._template(turns, tools).conversation(turns, tools)

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Turn]) -> str:
        """The turns and the opening of an answer. DataError: the template refuses them."""
        return self._template(turns, tools).render(turns, tools, prompt=True)

    def _template(self, turns: Sequence[Turn], tools: Sequence[Turn]) -> ChatTemplate:
        if self._drops_system and any(turn["role"] == "system" for turn in turns):
            raise DataError(
                "the chat template leaves the system turn out without a word: use a template that writes it, or take "
                "the system turns out of the data"
            )
        return self._tooled if tools else self._default


def _writes_tools(template: ChatTemplate) -> bool:
    text = _rendered(template, _WITH_TOOLS, (_TOOL,)) or ""
    return all(
        word in text for word in ("zqlistedzq", "zqdescribedzq", "zqcallzq", "zqkeyzq", "zqvaluezq", _SAID["tool"])
    )


def _rendered(template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[Turn]) -> str | None:
    try:
        return template.render(turns, tools)
    except DataError:
        return None
