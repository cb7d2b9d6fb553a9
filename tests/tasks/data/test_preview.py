"""A preview shows every token, and which carry loss, with colour and without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.data.preview import as_json, preview
from tasks.data.rows import Row
from tasks.data.tokens import ChatTokenizer
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return ChatTokenizer(folder)


def row(user: str, answer: str) -> Row:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return Row.model_validate({"id": "r1", "messages": messages})


PICTURE = Row.model_validate({
    "id": "p1",
    "messages": [
        {"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "a cat"},
    ],
})  # fmt: skip


def test_without_colour_what_is_learned_is_bracketed(tokenizer: ChatTokenizer) -> None:
    text = preview([row("say\nhi", "hi\nyou")], tokenizer, colour=False)
    bare = text.replace("·", "")
    assert bare.startswith(
        "row r1\n<|im_start|>user↵\nsay↵\nhi<|im_end|>↵\n<|im_start|>assistant↵\n⟦hi↵⟧\n⟦you⟧⟦<|im_end|>⟧↵\n"
    )
    assert "\x1b" not in text
    encoded = tokenizer.encode(row("say\nhi", "hi\nyou").messages)
    count, learned = len(encoded.ids), sum(encoded.loss)
    assert bare.endswith(f"\n{count} tokens, {learned} with loss ({learned / count:.0%})\n")
    body = text.split("assistant↵\n")[1].split("↵\n")  # a learned token is each piece between · or brackets
    assert learned == len(re.findall(r"[⟦·][^⟦⟧·]+", "↵".join(body[:2]).replace("⟧\n⟦", "")))


def test_with_colour_the_text_is_the_same(tokenizer: ChatTokenizer) -> None:
    plain = re.sub("[⟦⟧·]", "", preview([row("say\nhi", "hi")], tokenizer, colour=False))
    coloured = preview([row("say\nhi", "hi")], tokenizer, colour=True)
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain
    assert "\x1b[1;32mhi\x1b[0m" in coloured and "\x1b[2msay↵\x1b[0m" in coloured


@pytest.mark.parametrize("steering", ["\x1b[2J", "\r", "\x07", "\u202e", "\x9b", "\x7f"])
def test_a_row_can_t_steer_the_terminal(tokenizer: ChatTokenizer, steering: str) -> None:
    text = preview([row("a" + steering, "b" + steering)], tokenizer, colour=False)
    assert steering[0] not in text


def test_a_refused_row_says_why(tokenizer: ChatTokenizer) -> None:
    assert "row p1 is refused: the user message holds an image" in preview([PICTURE], tokenizer, colour=False)
    assert as_json([PICTURE], tokenizer)[0].keys() == {"id", "refused"}


def test_as_json_is_the_ids_with_their_texts(tokenizer: ChatTokenizer) -> None:
    (shown,) = as_json([row("héllo 漢字 🏳️‍🌈", "👩‍👩‍👧 \ufffd ok<|im_end|>")], tokenizer)
    ids = [token["id"] for token in shown["tokens"]]
    encoded = tokenizer.encode(row("héllo 漢字 🏳️‍🌈", "👩‍👩‍👧 \ufffd ok<|im_end|>").messages)
    assert ids == encoded.ids
    assert [token["loss"] for token in shown["tokens"]] == encoded.loss
    assert "".join(token["text"] for token in shown["tokens"]) == tokenizer.spell(ids)
    assert sum(token["control"] for token in shown["tokens"]) == 4
    assert (shown["count"], shown["with_loss"]) == (len(ids), sum(encoded.loss))


def test_real_rows(real_base: Path) -> None:
    made = ChatTokenizer(real_base)
    rows = [Row.model_validate({"id": "s", "messages": value["messages"]}) for value in tiny.sample_rows()[:5]]
    assert preview(rows, made, colour=False).count(" with loss (") == 5
