"""Every format becomes the same row; every other value is unfit with a kind that can be counted."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import DataError, ParamsError
from tasks.core.sections import DataParams
from tasks.data import formats, landing
from tasks.data.formats import Unfit, clean
from tasks.data.rows import Row

ROOT = Path(__file__).parents[3]
SHARED = ROOT / "../shared/data"
PARAMS = DataParams()
MAPPED = DataParams.model_validate(
    {
        "columns": [
            {"prompt": "question", "completion": "answer", "system": "context", "tags": ["topic", "level"]},
            {"prompt": "question", "completion": "answer"},
            {"prompt": "mr", "completion": "ref"},
        ]
    }
)

# Every format with one value of it. A new file under tasks/data/formats/ fails the test below until it has its own.
EXAMPLES: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "columns": {"question": "q", "answer": "a"},
    "canonical": {"id": "7", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "completion": {"prompt": "q", "completion": "a"},
}
NO_FORMATS = {"__init__", "calls", "clean", "fields", "images", "labels", "turns", "unfit"}


def to_row(value: Any, params: DataParams = MAPPED) -> Row:
    return formats.to_row(value, source="landed", params=params)


def said(row: Row) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in row.messages]


def unfit(value: Any, params: DataParams = MAPPED) -> tuple[str, str]:
    with pytest.raises(Unfit) as caught:
        to_row(value, params)
    assert caught.value.kind in formats.KINDS
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


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


# Alpaca


def test_alpaca_s_input_follows_its_instruction() -> None:
    value = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"], ["c", "d"]]}
    assert said(to_row(value)) == [
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]  # fmt: skip
    null = {
        "instruction": "Add.",
        "input": None,
        "output": "3",
        "system": None,
        "history": None,
        "tags": None,
        "id": None,
    }
    assert said(to_row(null)) == [("user", "Add."), ("assistant", "3")]
    assert said(to_row({"instruction": "", "input": "1 2", "output": "3"})) == [("user", "1 2"), ("assistant", "3")]


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ({"instruction": "q", "output": ""}, "blank turn", "messages[1]: the assistant message is blank"),
        ({"instruction": "q", "output": None}, "blank turn", "assistant"),
        ({"instruction": " ", "input": "\n", "output": "a"}, "blank turn", "messages[0]: the user message is blank"),
        ({"instruction": 7, "output": "a"}, "wrong type", "instruction: expected text, found a number"),
        ({"instruction": "q", "output": ["a"]}, "wrong type", "output: expected text, found a list"),
        ({"instruction": "q", "output": "a", "history": [["a"]]}, "wrong type", "history[0]"),
        ({"instruction": "q", "output": "a", "history": "x"}, "wrong type", "history is not JSON"),
        ({"instruction": "q"}, "unknown format", "found the keys 'instruction'"),
    ],
)
def test_alpaca_rows_that_are_unfit(value: dict[str, Any], kind: str, says: str) -> None:
    found, message = unfit(value)
    assert found == kind
    assert says in message


# ShareGPT


def turns(*said: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": name, "value": text} for name, text in said], **fields}


CALL = '{"name": "f", "arguments": {"x": 1}}'


def test_calls_made_at_once_are_one_turn() -> None:
    tools = json.dumps([{"name": "f", "description": "d", "parameters": {}}])
    together = turns(
        ("human", "q"), ("gpt", "Let me see."), ("function_call", f"[{CALL}, {CALL}]"), ("observation", "1"),
        ("observation", "2"), ("gpt", "a"), system="s", tools=tools,
    )  # fmt: skip
    row = to_row(together)
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert row.messages[2].content == "Let me see."
    assert [(call.name, call.arguments) for call in row.messages[2].tool_calls] == [("f", {"x": 1})] * 2
    assert row.tools == ({"type": "function", "function": json.loads(tools)[0]},)
    apart = {**together, "conversations": list(together["conversations"])}
    apart["conversations"][2:3] = [{"from": "function_call", "value": CALL}] * 2
    assert to_row(apart) == row
    assert to_row({**together, "tools": json.loads(tools)}) == row
    assert to_row(turns(("user", "q"), ("assistant", "a"), tools="")).tools == ()


def test_images_stand_where_the_placeholders_are() -> None:
    value = turns(
        ("human", "<image>What?\n<image>"), ("gpt", "It's <image>."), images=["1.jpg", {"path": "2"}, "3.jpg"]
    )
    row = to_row(value)
    assert row.images == ("1.jpg", "2", "3.jpg")
    assert row.messages[0].text == "What?\n"
    assert to_row(turns(("human", "<image>"), ("gpt", "a"), image="1.jpg")).images == ("1.jpg",)
    words = to_row(turns(("human", "What does <image> mean?"), ("gpt", "a"), images=[]))
    assert words.messages[0].content == "What does <image> mean?"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (turns(), "no conversation"),
        (turns(("human", "q")), "no answer"),
        (turns(("human", "q"), ("gpt", "a"), ("human", "q")), "no answer"),
        (turns(("gpt", "a"), ("gpt", "a")), "role order"),
        (turns(("human", "q"), ("human", "q"), ("gpt", "a")), "role order"),
        (turns(("system", "s"), ("human", "q"), ("gpt", "a"), system="t"), "role order"),
        (turns(("human", "q"), ("observation", "r"), ("gpt", "a")), "role order"),
        (turns(("human", "q"), ("function_call", CALL), ("gpt", "a")), "role order"),
        (turns(("robot", "q"), ("gpt", "a")), "unknown role"),
        (turns(("human", "q"), ("function_call", "f(1)"), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", "[]"), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"arguments": {}}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"name": "f", "arguments": [1]}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"name": "f", "name": "g"}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("gpt", "a"), tools="[{}]"), "tools"),
        (turns(("human", "q"), ("gpt", "a"), tools="none"), "wrong type"),
        (turns(("human", "q"), ("gpt", "a"), tools={}), "wrong type"),
        (turns(("human", "<image>"), ("gpt", "a"), images=["1", "2"]), "image"),
        (turns(("human", "<image><image>"), ("gpt", "a"), images=["1"]), "image"),
        (turns(("human", "q"), ("gpt", "a"), images=["1"]), "image"),
        (turns(("human", "<image>"), ("gpt", "a"), images=[{"bytes": "xx", "path": None}]), "image"),
        (turns(("human", "<image>"), ("gpt", "a"), images=["data:image/png;base64,xx"]), "image"),
        (turns(("human", "<video>"), ("gpt", "a"), videos=["1.mp4"]), "image"),
        ({"conversations": [7]}, "wrong type"),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, "unknown role"),
        ({"conversations": [{"from": "human", "value": 7}]}, "wrong type"),
        ({"conversations": {"a": 1}}, "wrong type"),
    ],
)
def test_sharegpt_rows_that_are_unfit(value: dict[str, Any], kind: str) -> None:
    assert unfit(value)[0] == kind


# OpenAI messages

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def called(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def function(identity: str | None = None, arguments: Any = '{"x": 1}') -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": "f", "arguments": arguments}}


def messages(*found: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(found), **fields}


@pytest.mark.parametrize("call", [function(), function(arguments={"x": 1}), {"name": "f", "arguments": {"x": 1}}])
def test_a_call_s_spelling_makes_no_difference(call: dict[str, Any]) -> None:
    result = {"role": "tool", "content": "r", "name": "f"}
    row = to_row(messages({"role": "developer", "content": "s"}, Q, called(call), result, A))
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls[0].arguments == {"x": 1}
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    assert to_row(messages({"role": "system", "content": "s"}, Q, old, {**result, "role": "function"}, A)) == row


@pytest.mark.parametrize("nothing", [None, "", " ", {}, "{}"])
def test_a_call_may_have_no_arguments(nothing: Any) -> None:
    (call,) = to_row(messages(Q, called(function(arguments=nothing)))).messages[1].tool_calls
    assert call.arguments == {}


def test_results_stand_in_the_order_of_the_calls() -> None:
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("c", "a", "b")]
    row = to_row(messages(Q, called(function("a"), function("b"), function("c")), *results, A))
    assert [message.content for message in row.messages[2:5]] == ["a", "b", "c"]
    lost = unfit(messages(Q, called(function("a")), {"role": "tool", "tool_call_id": "z", "content": "r"}, A))
    assert lost[0] == "tool call"


def test_null_is_absent() -> None:
    """Tables give every message every key."""
    keys = ("tool_calls", "function_call", "tool_call_id", "name", "refusal", "audio", "weight", "reasoning_content")
    null = dict.fromkeys(keys)
    row = to_row(messages({**null, **Q}, {**null, **A}, tools=None, images=None, id=None, weight=None, source=None))
    assert row == to_row(messages(Q, A))


def test_content_parts() -> None:
    content = [
        {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/1.jpg", "detail": "low"}},
        {"type": "input_image", "image_url": "2.jpg"}, {"type": "input_text", "text": "b"},
        {"type": "image", "image": "3.jpg", "text": None}, {"type": "image"},
    ]  # fmt: skip
    row = to_row(messages({"role": "user", "content": content}, A, images=["4.jpg"]))
    assert row.images == ("https://x/1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert row.messages[0].text == "ab"
    assert unfit(messages({"role": "user", "content": content}, A))[0] == "image"
    words = [{"type": "text", "text": "q"}, " and ", {"type": "text", "text": "r"}]
    assert to_row(messages({"role": "user", "content": words}, A)).messages[0].content == "q and r"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (messages(), "no conversation"),
        (messages(Q), "no answer"),
        (messages(A), "role order"),
        (messages(Q, A, A), "role order"),
        (messages({"role": "system", "content": "s"}), "no answer"),
        (messages({"role": "system", "content": "s"}, {"role": "developer", "content": "t"}, Q, A), "role order"),
        (messages(Q, {"role": "assistant"}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": None}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": []}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": " \u3000\n"}), "blank turn"),
        (messages({"role": "user", "content": 7}, A), "wrong type"),
        (messages({"role": "user", "content": {"text": "q"}}, A), "wrong type"),
        (messages({"role": "user", "content": [{"type": "input_audio"}]}, A), "image"),
        (messages({"role": "user", "content": [7]}, A), "wrong type"),
        (messages({"role": "user", "content": [{"type": "text", "text": 7}]}, A), "wrong type"),
        (messages({"content": "q"}, A), "unknown role"),
        (messages({"role": "narrator", "content": "q"}, A), "unknown role"),
        (messages({"role": {"a": 1}, "content": "q"}, A), "unknown role"),
        (messages("q", A), "wrong type"),
        (messages({**Q, "tool_calls": [function()]}, A), "tool call"),
        (messages(Q, called(function(arguments="[1]")), A), "tool call"),
        (messages(Q, called(function(arguments='{"a": NaN}')), A), "tool call"),
        (messages(Q, called({"function": {"name": " "}}), A), "tool call"),
        (messages(Q, called({**function(), "id": 7}), A), "tool call"),
        (messages(Q, {**A, "refusal": "I can't."}), "not learnable"),
        (messages(Q, {**A, "reasoning_content": "hm"}), "not learnable"),
        (messages(Q, {**A, "weight": 0}, Q, A), "not learnable"),
        (messages(Q, A, tools=[7]), "tools"),
        ({"messages": "q"}, "wrong type"),
        ({"messages": 7}, "wrong type"),
        (messages(Q, {"role": "assistant", "content": "a", "tool_calls": 7}), "wrong type"),
    ],
)
def test_messages_that_are_unfit(value: dict[str, Any], kind: str) -> None:
    assert unfit(value)[0] == kind


# Prompt and completion, columns, preference, canonical


def test_prompt_and_completion_may_be_messages() -> None:
    asked = {"prompt": [{"role": "system", "content": "s"}, Q], "completion": [A]}
    assert to_row(asked) == to_row({"prompt": "q", "completion": "a", "system": "s"})
    assert to_row({**asked, "completion": "a"}) == to_row(asked)
    assert said(to_row({"prompt": "The sky is", "completion": " blue."}))[1] == ("assistant", " blue.")
    assert unfit({"prompt": "q", "completion": None})[0] == "blank turn"
    assert unfit({"prompt": 7, "completion": "a"})[0] == "wrong type"
    assert unfit({"prompt": [Q], "completion": [Q]})[0] == "no answer"


def test_the_first_mapping_with_all_its_columns_reads_the_row() -> None:
    full = {"question": "q", "answer": "a", "context": "s", "topic": "t", "level": "", "other": 7}
    row = to_row(full)
    assert said(row) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert row.tags == ("t",)
    assert said(to_row({"question": "q", "answer": "a"})) == [("user", "q"), ("assistant", "a")]
    assert unfit({"question": 7, "answer": "a"})[0] == "wrong type"
    assert unfit({"question": "q"})[0] == "unknown format"
    assert unfit({"question": "q"}, MAPPED.model_copy(update={"format": "columns"}))[0] == "unknown format"


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosen": [Q, A], "rejected": [Q, A]},
        messages(Q, A, label=True), messages(Q, A, label=False), {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": "False"}, turns(("human", "q"), ("gpt", "a"), label=False),
        {"instruction": "q", "output": "a", "kto_tag": True},
    ],
)  # fmt: skip
def test_a_preference_row_is_never_trained_on(value: dict[str, Any]) -> None:
    assert unfit(value)[0] == "preference row"


def test_a_label_that_is_no_verdict_is_another_column() -> None:
    assert to_row({"prompt": "q", "completion": "a", "label": "positive"})
    assert to_row({"prompt": "q", "completion": "a", "label": None})


def test_a_canonical_row_with_a_key_too_many_is_read_as_messages_unless_the_format_is_named() -> None:
    typo = {**EXAMPLES["canonical"], "lable": 1}
    assert formats.recognise(typo, PARAMS) == "messages"
    kind, message = unfit(typo, DataParams(format="canonical"))
    assert (kind, "lable" in message) == ("unknown key", True)
    assert unfit({"id": "1", "messages": [{**Q, "name": "x"}, A]}, DataParams(format="canonical"))[0] == "unknown key"


# Labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"id": "x"}, {"id": "x"}), ({"id": 7}, {"id": "7"}), ({"source": "wiki"}, {"source": "wiki"}),
        ({"source": ""}, {"source": "landed"}), ({"weight": 2}, {"weight": 2.0}), ({"weight": "0.5"}, {"weight": 0.5}),
        ({"weight": ""}, {"weight": 1.0}), ({"tags": ["a", "b"]}, {"tags": ("a", "b")}), ({"tag": "a"}, {"tags": ("a",)}),
        ({"tags": "a", "tag": None}, {"tags": ("a",)}), ({"category": "x", "score": 3}, {"tags": ()}),
    ],
)  # fmt: skip
def test_labels_are_taken(labels: dict[str, Any], expected: dict[str, Any]) -> None:
    row = to_row({**EXAMPLES["alpaca"], **labels})
    assert {key: getattr(row, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({"id": 1.5}, "wrong type"), ({"id": True}, "wrong type"), ({"id": ["x"]}, "wrong type"),
        ({"id": "\x00"}, "control character"), ({"source": 7}, "wrong type"), ({"weight": "much"}, "wrong type"),
        ({"weight": True}, "wrong type"), ({"weight": 0}, "out of range"), ({"weight": 101}, "out of range"),
        ({"weight": "nan"}, "out of range"), ({"weight": 10**400}, "wrong type"), ({"tags": [7]}, "wrong type"),
        ({"tags": {"a": 1}}, "wrong type"), ({"tag": "\ud800"}, "control character"),
    ],
)  # fmt: skip
def test_labels_that_are_wrong_are_not_overlooked(labels: dict[str, Any], kind: str) -> None:
    assert unfit({**EXAMPLES["alpaca"], **labels})[0] == kind


# Text


@given(st.text())
def test_text_changes_by_the_rules_alone(text: str) -> None:
    expected = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    refused = [c for c in expected if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    try:
        cleaned = clean.text(text, "here")
    except Unfit as error:
        if error.kind == "combining marks":
            assert expected != text
            return
        assert error.kind == "control character"
        point = re.search(r"here holds the character U\+([0-9A-F]{4,6}) at character", str(error))
        assert point
        bad = chr(int(point[1], 16))
        assert bad in refused or ord(bad) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(bad) <= 0xFDEF
        return
    assert cleaned == expected
    assert not refused
    assert clean.text(cleaned, "here") == cleaned


@pytest.mark.parametrize(
    "code", [0, 8, 0xB, 0xC, 0x1B, 0x7F, 0x85, 0x9F, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0xFDD0, 0xD800]
)
@pytest.mark.parametrize("name", ["alpaca", "messages", "sharegpt", "completion", "columns", "canonical"])
def test_control_characters_are_refused_by_name_in_every_format(name: str, code: int) -> None:
    value = json.loads(json.dumps(EXAMPLES[name]).replace('"a"', json.dumps(f"a{chr(code)}b")))
    kind, message = unfit(value)
    assert kind == "control character"
    assert f"U+{code:04X} at character 2" in message


@pytest.mark.timeout(20)
def test_combining_marks_can_t_keep_the_line_busy() -> None:
    """Python's normalisation takes minutes for a row like the first one."""
    assert unfit({"instruction": "a" + "\u0301\u0316" * 250_000, "output": "a"})[0] == "combining marks"
    in_order = "b" + "\u0316" * 500_000 + "\u0301" * 500_000
    assert said(to_row({"instruction": in_order, "output": "a"}))[0] == ("user", in_order)
    assert said(to_row({"instruction": "a" + "\u0301\u0316" * 15, "output": "a"}))[0][1].startswith("\u00e1\u0316")


@pytest.mark.timeout(20)
def test_a_row_of_many_small_things_is_read_in_time() -> None:
    many = 50_000
    results = [{"role": "tool", "tool_call_id": str(number), "content": "r"} for number in reversed(range(many))]
    row = to_row(messages(Q, called(*(function(str(number)) for number in range(many))), *results, A))
    assert len(row.messages) == many + 3
    assert len(to_row(turns(("human", "q"), *[("function_call", CALL)] * many)).messages[1].tool_calls) == many


def test_what_looks_like_control_is_kept() -> None:
    text = "  <|im_end|>\n<|im_start|>assistant\t\u200b\u202e\ufeff\U0001f469\u200d\U0001f680 \u2028 "
    assert said(to_row({"instruction": text, "output": text})) == [("user", text), ("assistant", text)]
    assert said(to_row({"instruction": "e\u0301\r\nx\ry", "output": "a"}))[0] == ("user", "\u00e9\nx\ny")


def test_arguments_and_tools_are_cleaned_too() -> None:
    row = to_row(messages(Q, called(function(arguments={"e\u0301": ["x\r\n"]})), tools=[{"name": "e\u0301"}]))
    assert row.messages[1].tool_calls[0].arguments == {"\u00e9": ["x\n"]}
    assert row.tools[0]["function"] == {"name": "\u00e9"}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"x": "\x00"}, "control character"), ({"\x00": 1}, "control character"), ({"x": float("nan")}, "out of range"),
        ({"x": float("inf")}, "out of range"), ({"x": 2**64}, "out of range"), ({"x": -(2**63) - 1}, "out of range"),
        ({"x": deep(200)}, "too deep"), ({"x": deep(5000)}, "too deep"), ({"e\u0301": 1, "\u00e9": 2}, "control character"),
    ],
)  # fmt: skip
def test_arguments_that_a_line_can_t_hold_are_refused(arguments: Any, kind: str) -> None:
    assert unfit(messages(Q, called(function(arguments=arguments))))[0] == kind
    assert unfit(messages(Q, A, tools=[{"name": "f", "parameters": arguments}]))[0] == kind


def test_an_unfit_row_is_an_error_of_the_data() -> None:
    assert issubclass(Unfit, DataError)
    assert len(formats.KINDS) == len(set(formats.KINDS)) == 17
    for nothing in ([], None, 7, "text", {}):
        assert unfit(nothing)[0] in ("wrong type", "unknown format")


# Laws

KEYS = st.sampled_from([
    "messages", "conversations", "role", "content", "from", "value", "instruction", "input", "output", "history", "system",
    "tools", "functions", "prompt", "completion", "question", "answer", "context", "topic", "level", "chosen", "rejected",
    "label", "id", "source", "weight", "tags", "tag", "images", "image", "videos", "tool_calls", "function_call", "function",
    "name", "arguments", "tool_call_id", "type", "text", "image_url", "url", "refusal", "lable",
])  # fmt: skip
leaves = (
    st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation", "text", "image"])
    | st.sampled_from(["", " ", "q", "<image>", "[]", "{}", CALL, "7", "\x00", "\ud800"])
    | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
)  # fmt: skip
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)
RICH: list[dict[str, Any]] = [
    *EXAMPLES.values(),
    {
        "instruction": "q",
        "input": "i",
        "output": "a",
        "history": [["q", "a"]],
        "system": "s",
        "tags": ["t"],
        "weight": 2,
    },
    turns(
        ("human", "<image>"),
        ("function_call", CALL),
        ("observation", "r"),
        ("gpt", "a"),
        images=["1"],
        tools=[{"name": "f"}],
    ),
    messages(Q, called(function("a"), function("b")), {"role": "tool", "tool_call_id": "b", "content": "r"}, A, id=7),
    messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "1"}}]}, A, source="s"),
    {"prompt": [Q], "completion": [A], "tags": "t"},
]


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """A right row with up to two places of it made anything, or gone."""
    value: Any = json.loads(json.dumps(draw(st.sampled_from(RICH))))
    for _ in range(draw(st.integers(0, 2))):
        node: Any = value
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and draw(st.booleans()):
                node = node[place]
                continue
            if draw(st.booleans()):
                node[place] = draw(anything)
            else:
                del node[place]
            break
    return value


@given(bent(), st.sampled_from(["auto", "auto", *EXAMPLES]))
def test_a_bent_row_is_a_row_or_unfit(value: Any, name: str) -> None:
    check(value, name)


@given(st.dictionaries(KEYS, anything, max_size=5) | anything, st.sampled_from(["auto", *EXAMPLES]))
def test_any_value_is_a_row_or_unfit(value: Any, name: str) -> None:
    check(value, name)


def check(value: Any, name: str) -> None:
    """Nothing but Unfit is raised, what is made reads back and is made again, and the value stays as it was."""
    params = MAPPED.model_copy(update={"format": name})
    before = repr(value)
    try:
        row = formats.to_row(value, source="landed", params=params)
    except Unfit as error:
        assert error.kind in formats.KINDS
        assert "\n" not in str(error)
    else:
        assert Row.from_line(row.to_line()) == row
        assert to_row(json.loads(row.to_line()), PARAMS) == row
    assert repr(value) == before


good = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1).map(
    lambda text: unicodedata.normalize("NFC", text)
).filter(lambda text: bool(text.strip()))  # fmt: skip


@given(st.lists(st.tuples(good, good), min_size=1, max_size=3), st.none() | good, st.lists(good, max_size=2))
def test_every_format_says_the_same(pairs: list[tuple[str, str]], system: str | None, tags: list[str]) -> None:
    """One conversation in four spellings is one row."""
    *history, (asked, answer) = pairs
    alpaca = {"instruction": asked, "output": answer, "history": [list(pair) for pair in history], "system": system}
    opening = [] if system is None else [{"role": "system", "content": system}]
    spoken = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    sharegpt = [{"from": names[turn["role"]], "value": turn["content"]} for turn in opening + spoken]
    spellings: list[dict[str, Any]] = [
        alpaca, {"messages": opening + spoken}, {"conversations": sharegpt},
        {"prompt": opening + spoken[:-1], "completion": answer},
    ]  # fmt: skip
    rows = {to_row({**spelling, "tags": tags}, PARAMS).to_line() for spelling in spellings}
    assert len(rows) == 1
    row = Row.from_line(rows.pop())
    assert said(row)[-2:] == [("user", asked), ("assistant", answer)]
    assert to_row(json.loads(row.to_line()), PARAMS) == row
