"""Rows as they land and as the line keeps them: one conversation a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from tasks.core import digest
from tasks.core.errors import DataError

Text = Annotated[str, StringConstraints(min_length=1)]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.content.strip():
            raise ValueError(f"the {self.role} message is blank")
        return self


class Row(BaseModel):
    """One conversation: an optional system turn, then user and assistant in turn, ending with the assistant."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Text
    messages: tuple[Message, ...]
    tags: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _takes_turns(self) -> Self:
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(
                f"expected an optional system turn, then user and assistant in turn, found {', '.join(roles) or 'none'}"
            )
        return self

    @property
    def content_digest(self) -> str:
        """Equal conversations have equal digests, whatever their id and tags."""
        return digest.of_value([message.model_dump() for message in self.messages])

    @property
    def group(self) -> str:
        """Digest of the prompt that opens the conversation, case and spacing aside: rows of a group stay in one split."""
        opening = [message.content for message in self.messages if message.role != "assistant"]
        return digest.of_value(" ".join(" ".join(opening).casefold().split()))

    def to_line(self) -> str:
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False) + "\n"


def read(file: Path) -> Iterator[Row]:
    """The rows of one JSON-lines file. DataError: the first malformed row, by file and line."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, f"{file}:{number}")


def read_folder(folder: Path) -> Iterator[Row]:
    """The rows of every shard, in name order."""
    for file in sorted(folder.glob("*.jsonl")):
        yield from read(file)


def _row(line: bytes, where: str) -> Row:
    try:
        return Row.model_validate(
            json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_pairs)
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from None
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{where}: {path + ': ' if path else ''}{message}; mend or remove the row") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object a line: {error}; mend or remove the row") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!r} stands twice")
        if isinstance(item, str) and not item.isprintable():
            item.encode("utf-8")  # a lone surrogate raises here, with its position, and not deep inside Arrow
        value[key] = item
    return value
