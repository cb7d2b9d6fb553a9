"""A row is whole or refused by name, reads back equal, and its digests see what they should and no more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.data.rows import ImagePart, Message, Row, TextPart, ToolCall

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
RESULT = {"role": "tool", "content": "r"}
SYSTEM = {"role": "system", "content": "s"}


def row(*messages: dict[str, Any], **fields: Any) -> Row:
    return Row.model_validate({"id": "1", "messages": messages, **fields})


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: bool(text.strip()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(texts, values, max_size=3)
parts = st.builds(TextPart, type=st.just("text"), text=texts) | st.builds(ImagePart, type=st.just("image"), image=texts)
contents = texts | st.lists(parts, min_size=1, max_size=3).map(tuple)
tool_calls = st.lists(
    st.builds(ToolCall, name=texts, arguments=arguments, id=st.none() | texts), min_size=1, max_size=2
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    messages = [Message(role="system", content=draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message(role="user", content=draw(contents)))
        if draw(st.booleans()):
            calls = tuple(draw(tool_calls))
            messages.append(Message(role="assistant", content=draw(st.just("") | texts), tool_calls=calls))
            messages += [Message(role="tool", content=draw(texts)) for _ in calls]
        messages.append(Message(role="assistant", content=draw(contents)))
    return tuple(messages)


rows = st.builds(
    Row,
    id=texts,
    messages=conversations(),
    tools=st.lists(arguments, max_size=2).map(tuple),
    source=st.just("") | texts,
    weight=st.floats(0, 100, exclude_min=True),
    tags=st.lists(texts, max_size=2).map(tuple),
)


@given(rows)
def test_a_row_reads_back_from_one_line(made: Row) -> None:
    line = made.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    again = Row.from_line(line)
    assert again == made
    assert again.to_line() == line
    assert again.content_digest == made.content_digest
    assert again.group == made.group


@pytest.mark.parametrize(
    "messages",
    [
        (USER, ANSWER), (SYSTEM, USER, ANSWER), (USER, ANSWER, USER, ANSWER), (USER, CALL), (USER, CALL, RESULT, ANSWER),
        (USER, CALL, RESULT, RESULT, CALL, RESULT, ANSWER), (USER, CALL, RESULT, ANSWER, USER, ANSWER),
    ],
)  # fmt: skip
def test_these_take_turns(messages: tuple[dict[str, Any], ...]) -> None:
    assert len(row(*messages).messages) == len(messages)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ((), "found no messages"),
        ((SYSTEM,), "found system"),
        ((ANSWER,), "begins with the assistant"),
        ((RESULT, ANSWER), "begins with the tool"),
        ((USER,), "there is no answer to learn"),
        ((USER, ANSWER, USER), "there is no answer to learn"),
        ((USER, CALL, RESULT), "there is no answer to learn"),
        ((SYSTEM, SYSTEM, USER, ANSWER), "begins with the system"),
        ((USER, SYSTEM, ANSWER), "turn 2 is the system's after the user's"),
        ((USER, USER, ANSWER), "turn 2 is the user's after the user's: expected the assistant's"),
        ((SYSTEM, USER, ANSWER, ANSWER), "turn 4 is the assistant's after the assistant's: expected the user's"),
        ((USER, ANSWER, RESULT, ANSWER), "turn 3 is the tool's after the assistant's: expected the user's turn"),
        ((USER, CALL, USER, ANSWER), "turn 3 is the user's after the assistant's: expected the tool's result"),
        ((USER, CALL, ANSWER), "expected the tool's result"),
        ((USER, RESULT, ANSWER), "turn 2 is the tool's after the user's"),
    ],
)
def test_these_are_out_of_turn(messages: tuple[dict[str, Any], ...], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        row(*messages)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": " \n"}, "the user message is blank"),
        ({"role": "user", "content": []}, "blank"),
        ({"role": "user", "content": [{"type": "text", "text": " "}]}, "blank"),
        ({"role": "user"}, "blank"),
        ({"role": "user", "content": None}, "valid string"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"name": "f", "arguments": {}}]},
            "only an assistant calls tools",
        ),
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": "user", "content": "x", "name": "y"}, "name"),
        ({"role": "user", "content": [{"text": "x"}]}, "type"),
        ({"role": "user", "content": [{"type": "image", "image": ""}]}, "image"),
    ],
)
def test_a_message_that_is_none_is_refused(message: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        row(message, ANSWER)
    assert says in str(caught.value)


@pytest.mark.parametrize("fields", [{"lable": 1}, {"id": ""}, {"weight": 0}, {"weight": 101}, {"tags": [""]}])
def test_a_field_that_is_wrong_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        row(USER, ANSWER, **fields)


def test_the_words_and_the_images_of_parts() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image", "image": "x.jpg"}, {"type": "text", "text": "b"}]
    made = row({"role": "user", "content": content}, ANSWER)
    assert made.messages[0].text == "ab"
    assert made.images == made.messages[0].images == ("x.jpg",)
    assert row(USER, ANSWER).images == ()


@given(rows, texts, texts)
def test_the_content_s_digest_is_of_the_content_alone(made: Row, name: str, tag: str) -> None:
    assert (
        made.model_copy(update={"id": name, "source": tag, "tags": (tag,), "weight": 2}).content_digest
        == made.content_digest
    )


def test_the_content_s_digest_sees_each_part_of_the_content() -> None:
    image = {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image", "image": "x"}]}
    different = [
        row(USER, ANSWER), row(SYSTEM, USER, ANSWER), row({"role": "user", "content": "Q"}, ANSWER), row(image, ANSWER),
        row(USER, CALL), row(USER, ANSWER, tools=[{"name": "f"}]),
    ]  # fmt: skip
    assert len({made.content_digest for made in different}) == len(different)


def test_a_group_has_the_same_prompt_case_spacing_and_punctuation_aside() -> None:
    one = row({"role": "user", "content": "Is it open?"}, ANSWER)
    assert one.group == row({"role": "user", "content": " is IT\nopen"}, {"role": "assistant", "content": "b"}).group
    assert one.group != row({"role": "user", "content": "Is it closed?"}, ANSWER).group
    assert row({"role": "user", "content": "?"}, ANSWER).group != row({"role": "user", "content": "!"}, ANSWER).group
    seen = [row({"role": "user", "content": [{"type": "image", "image": name}]}, ANSWER).group for name in "ab"]
    assert seen[0] != seen[1]
