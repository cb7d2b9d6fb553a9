"""Every format becomes the same row; every other value is unfit with a kind that can be counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import DataError, ParamsError
from tasks.core.sections import DataParams
from tasks.data import formats, landing
from tasks.data.formats import Unfit
from tests.project import ROOT
from tests.tasks.data.formats.spellings import EXAMPLES, MAPPED, PARAMS, said, to_row, unfit

SHARED = ROOT / "../shared/data"
NO_FORMATS = {"__init__", "calls", "clean", "fields", "images", "labels", "turns", "unfit"}


def test_every_format_has_an_example() -> None:
    found = {file.stem for file in (ROOT / "tasks" / "data" / "formats").glob("*.py")} - NO_FORMATS
    assert found == set(formats.NAMES) == set(EXAMPLES)
    assert len(found) == 7


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_is_recognised_and_can_be_named(name: str) -> None:
    assert formats.recognise(EXAMPLES[name], MAPPED) == name
    named = MAPPED.model_copy(update={"format": name})
    if name == "preference":
        assert unfit(EXAMPLES[name], named) == unfit(EXAMPLES[name])
        return
    row = to_row(EXAMPLES[name])
    assert said(row) == [("user", "q"), ("assistant", "a")]
    assert to_row(EXAMPLES[name], named) == row
    assert row.source == "landed"


def test_the_documentation_lists_every_format_and_reason() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    listed = [tuple(re.findall(r"^\| `([a-z ]+)` \|", part, re.MULTILINE)) for part in re.split(r"\n#{2,3} ", text)]
    assert formats.NAMES in listed
    assert formats.KINDS in listed


def test_equal_conversations_have_equal_ids_whatever_their_format() -> None:
    rows = [to_row(value) for name, value in EXAMPLES.items() if name not in ("preference", "canonical")]
    assert {row.id for row in rows} == {rows[0].content_digest[:16]}
    assert re.fullmatch("[0-9a-f]{16}", rows[0].id)


def test_a_format_that_is_named_is_not_guessed() -> None:
    both = {**EXAMPLES["messages"], "instruction": "other", "output": "other"}
    assert said(to_row(both))[0] == ("user", "q")
    assert said(to_row(both, DataParams(format="alpaca")))[0] == ("user", "other")
    liked = {"question": "q", "answer": "a", "chosen": "a", "rejected": "b"}
    assert unfit(liked)[0] == "preference row"
    assert said(to_row(liked, MAPPED.model_copy(update={"format": "columns"}))) == [("user", "q"), ("assistant", "a")]


def test_a_format_that_is_none_is_an_error_of_the_params() -> None:
    with pytest.raises(ParamsError, match="no format 'alpacca'; known are auto, preference, columns"):
        to_row(EXAMPLES["alpaca"], DataParams(format="alpacca"))


def test_an_unfit_row_is_an_error_of_the_data() -> None:
    assert issubclass(Unfit, DataError)
    assert len(formats.KINDS) == len(set(formats.KINDS)) == 17
    for nothing in ([], None, 7, "text", {}):
        assert unfit(nothing)[0] in ("wrong type", "unknown format")


# Real data


def load(file: Path) -> list[Any]:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent: the real data files are not part of the project")
    return list(landing.read(file, file.name, limit=1 << 20))


@pytest.mark.parametrize(
    ("name", "count", "format"),
    [
        ("formats/alpaca_en_demo.json", 999, "alpaca"), ("formats/alpaca_zh_demo.json", 1000, "alpaca"),
        ("formats/glaive_toolcall_en_demo.json", 300, "sharegpt"), ("formats/mllm_demo.json", 6, "messages"),
        ("e2e/devset.csv", 4672, "columns"), ("e2e/testset_w_refs.csv", 4693, "columns"),
    ],
)  # fmt: skip
def test_real_files_load_whole(name: str, count: int, format: str) -> None:
    items = load(SHARED / name)
    assert {formats.recognise(item.value, MAPPED) for item in items} == {format}
    rows = [to_row(item.value) for item in items]
    assert len(rows) == count
    for row in rows:
        assert to_row(json.loads(row.to_line())) == row


@pytest.mark.parametrize("name", ["dpo_en_demo.json", "kto_en_demo.json"])
def test_real_preference_files_are_kept_from_training(name: str) -> None:
    found = Counter(unfit(item.value) for item in load(SHARED / "formats" / name))
    ((kind, message),) = found
    assert (kind, found[kind, message]) == ("preference row", 300)
    assert "no preference method yet" in message
    assert "quarantine" in message


def test_tool_calls_and_images_of_the_real_files_are_there() -> None:
    glaive = [to_row(item.value) for item in load(SHARED / "formats" / "glaive_toolcall_en_demo.json")]
    assert sum(len(message.tool_calls) for row in glaive for message in row.messages) == 211
    assert sum(message.role == "tool" for row in glaive for message in row.messages) == 211
    assert all(tool["type"] == "function" and tool["function"]["name"] for row in glaive for tool in row.tools)
    pictures = [to_row(item.value) for item in load(SHARED / "formats" / "mllm_demo.json")]
    assert pictures[0].images == ("mllm_demo_data/1.jpg", "mllm_demo_data/1.jpg")
    assert [part.type for part in pictures[0].messages[2].content if not isinstance(part, str)] == ["text", "image"]


def test_the_sample_corpus_is_canonical() -> None:
    files = sorted((ROOT / "data" / "sample").glob("day*.jsonl"))
    values = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert {formats.recognise(value, PARAMS) for value in values} == {"canonical"}
    rows = [to_row(value) for value in values]
    assert len(rows) == len({row.id for row in rows}) == len({row.group for row in rows}) == 600
