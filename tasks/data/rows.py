"""The canonical record: one conversation, whatever format it arrived in.

The rules are documented in docs/data.md; a value that breaks one is refused with the rule's reason, never mended
silently beyond what `tasks.data.formats.clean` does to text.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.core import digest

Text = Annotated[str, StringConstraints(min_length=1)]
Role = Literal["system", "user", "assistant", "tool"]

_WORD = re.compile(r"\w+")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Value):
    type: Literal["text"]  # no default: `to_line` leaves defaults out, and `from_line` could not tell the parts apart
    text: str


class ImagePart(_Value):
    """An image by reference: a path relative to its landing file, or an address. Its bytes are never copied."""

    type: Literal["image"]
    image: Text


class ToolCall(_Value):
    """A function that the assistant asks for; `arguments` is a JSON object."""

    name: Text
    arguments: dict[str, Any]
    id: str | None = None


class Message(_Value):
    """One turn. `content` is text, or parts where images stand in it; a turn of tool calls may have none."""

    role: Role
    content: str | tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"the {self.role} message holds tool calls; only an assistant calls tools")
        if not self.text.strip() and not self.tool_calls and not self.images:
            raise ValueError(f"the {self.role} message is blank")
        return self

    @property
    def text(self) -> str:
        """The words alone."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[str, ...]:
        if isinstance(self.content, str):
            return ()
        return tuple(part.image for part in self.content if isinstance(part, ImagePart))


class Row(_Value):
    """One conversation: an optional system turn, then the user's turns and the assistant's answers, the last one an
    answer. Tool results stand between an assistant's calls and its answer.

    `source` names where the row came from, `weight` is how often it is drawn against others of its source.
    """

    id: Text
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    tags: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _takes_turns(self) -> Self:
        if complaint := _out_of_turn(self.messages):
            raise ValueError(complaint)
        return self

    @cached_property
    def content_digest(self) -> str:
        """Equal conversations have equal digests, whatever their id, source, weight and tags."""
        value: list[Any] = [message.model_dump(exclude_defaults=True) for message in self.messages]
        return digest.of_bytes(orjson.dumps([value, self.tools], option=orjson.OPT_SORT_KEYS))

    @property
    def group(self) -> str:
        """Digest of the prompts, case, spacing and punctuation aside: rows of a group stay in one split."""
        asked = " ".join(message.text for message in self.messages if message.role in ("system", "user"))
        words = " ".join(_WORD.findall(asked.casefold())) or asked
        return digest.of_bytes("\0".join([words, *self.images]).encode())

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(image for message in self.messages for image in message.images)

    def to_line(self) -> bytes:
        """The row as one line of JSON, fields that say nothing left out. Law: `Row.from_line(r.to_line()) == r`."""
        return orjson.dumps(self.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> Row:
        """A row that `to_line` wrote."""
        return cls.model_validate_json(line)


def _out_of_turn(messages: tuple[Message, ...]) -> str:
    """What is wrong with the order of the turns; nothing, if it is right."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns:
        return f"no conversation: expected a user's turn and an answer, found {', '.join(roles) or 'no messages'}"
    if turns[0] != "user":
        return f"the conversation begins with the {turns[0]}: expected the user"
    if turns[-1] != "assistant":
        return f"the conversation ends with the {turns[-1]}: there is no answer to learn"
    offset = len(roles) - len(turns)
    for place, (before, after) in enumerate(pairwise(turns), start=offset):
        if after not in _FOLLOWS[before] or (
            before == "assistant" and bool(messages[place].tool_calls) != (after == "tool")
        ):
            return (
                f"turn {place + 2} is the {after}'s after the {before}'s: expected {_expected(before, messages[place])}"
            )
    return ""


_FOLLOWS: dict[str, tuple[str, ...]] = {
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
    "system": (),
}


def _expected(role: str, message: Message) -> str:
    if role == "assistant":
        return "the tool's result" if message.tool_calls else "the user's turn"
    return " or ".join(f"the {follower}'s" for follower in _FOLLOWS[role])
