"""The training set on disk: one Parquet file a split, an example a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tasks.data.rows import Message, Row
from tasks.data.tokens import Encoded


@dataclass(frozen=True)
class Example:
    """`ids` and `loss` have equal lengths; `messages` is the conversation as JSON text."""

    id: str
    tags: list[str]
    messages: str
    ids: list[int]
    loss: list[bool]

    @classmethod
    def of(cls, row: Row, encoded: Encoded) -> Example:
        messages = json.dumps([message.model_dump() for message in row.messages], ensure_ascii=False)
        return cls(row.id, list(row.tags), messages, encoded.ids, encoded.loss)

    @property
    def conversation(self) -> tuple[Message, ...]:
        return tuple(Message.model_validate(message) for message in json.loads(self.messages))


def write(file: Path, examples: Sequence[Example]) -> None:
    """Law: equal examples give equal bytes."""
    from datasets import Dataset, Features, List, Value

    features = Features(
        {"id": Value("string"), "tags": List(Value("string")), "messages": Value("string"),
         "ids": List(Value("int32")), "loss": List(Value("bool"))}
    )  # fmt: skip
    Dataset.from_list([asdict(example) for example in examples], features=features).to_parquet(file)


def read(file: Path) -> list[Example]:
    """The examples of one split, in their order."""
    import pyarrow.parquet

    table: Any = pyarrow.parquet.read_table(file)
    return [Example(**row) for row in cast("list[dict[str, Any]]", table.to_pylist())]
