"""Prepare the training set: conversations split by prompt, rendered by the model's template, tokenised, masked."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core import events, manifest
from tasks.core.errors import DataError
from tasks.core.manifest import Manifest
from tasks.core.params import PrepareParams
from tasks.core.step import main
from tasks.data import chatset, rows, splits
from tasks.data.tokens import ChatTokenizer


def prepare(params: PrepareParams, *, raw: Path, base: Path, out: Path) -> Manifest:
    """Turn the raw corpus into `train`, `valid` and `test` with token ids and loss masks.

    Law: every row is in exactly one split or counted as dropped.
    DataError: an empty split that is needed, or more dropped rows than `prepare.max_dropped`.
    """
    inputs = {"raw": manifest.verify(raw).digest, "base": manifest.verify(base).digest}
    tokenizer = ChatTokenizer(base)
    parts: dict[str, list[chatset.Example]] = {name: [] for name in splits.NAMES}
    dropped: Counter[str] = Counter()
    for row in rows.read_folder(raw):
        try:
            encoded = tokenizer.encode(row.messages)
        except DataError as error:
            raise DataError(f"row {row.id}: {error}") from None
        if len(encoded.ids) > params.max_length:
            dropped["longer than max_length"] += 1
            continue
        parts[splits.place(row.group, params.splits, params.salt)].append(chatset.Example.of(row, encoded))
    _check(parts, dropped, params)
    with manifest.staged(out) as folder:
        for name, examples in parts.items():
            chatset.write(folder / f"{name}.parquet", examples)
        facts = _facts(parts, dropped)
        events.note("rows " + ", ".join(f"{name} {count}" for name, count in facts["rows"].items()))
        return manifest.seal(folder, step="prepare", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


def _check(parts: Mapping[str, list[Any]], dropped: Counter[str], params: PrepareParams) -> None:
    seen = sum(map(len, parts.values())) + dropped.total()
    if dropped.total() > params.max_dropped * seen:
        raise DataError(
            f"{dropped.total()} of {seen} rows were dropped ({json.dumps(dict(dropped))}), more than "
            f"prepare.max_dropped={params.max_dropped}: raise prepare.max_length or look at the data"
        )
    for name in ("train", "test"):
        if not parts[name]:
            raise DataError(f"no row fell to {name} ({seen} rows in all): bring more rows or raise its share")


def _facts(parts: Mapping[str, list[chatset.Example]], dropped: Counter[str]) -> dict[str, Any]:
    return {
        "rows": {name: len(examples) for name, examples in parts.items()},
        "tokens": {name: sum(len(example.ids) for example in examples) for name, examples in parts.items()},
        "loss_tokens": {name: sum(sum(example.loss) for example in examples) for name, examples in parts.items()},
        "longest": max(len(example.ids) for examples in parts.values() for example in examples),
        "dropped": dict(sorted(dropped.items())),
    }


if __name__ == "__main__":
    sys.exit(main(prepare))
