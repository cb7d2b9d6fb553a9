"""Suites: how they are read, sampled and counted; and the one that the project ships."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import layout
from tasks.core.errors import DataError, ParamsError
from tasks.data import suites
from tasks.data.suites import Item

FOLDER = Path(__file__).parents[3] / layout.SUITES
GENERAL = suites.read(FOLDER, "general")

categories, languages = st.sampled_from(["sums", "manners"]), st.sampled_from([None, "en", "de"])
items = st.lists(
    st.tuples(st.integers(0, 200), categories, languages), unique=True, min_size=1, max_size=40
).map(lambda drawn: [item(f"Say {n}.", category=category, language=language) for n, category, language in drawn])  # fmt: skip


def item(prompt: str, **more: Any) -> Item:
    return Item.model_validate({"prompt": prompt, "checks": [{"contains": "x"}], **more})


def write(folder: Path, *lines: Any) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "own.jsonl").write_text(text, encoding="utf-8")
    return folder


FINE = {"prompt": "Say x.", "checks": [{"contains": "x"}]}


def test_a_prompt_or_a_conversation_is_asked(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say x."}]
    first, second = suites.read(write(tmp_path, FINE, "", {"messages": turns, "checks": [{"equals": "x"}]}), "own")
    assert [message.role for message in first.asked] == ["user", "assistant"]
    assert [message.role for message in second.asked] == ["system", "user", "assistant"]
    assert suites.judge("own", second, "x").whole and not suites.judge("own", second, "y").whole


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"own.jsonl:2: not JSON"),
        ("[]", r"own.jsonl:2: Input should be .*(object|dictionary)"),
        ({"prompt": "a", "checks": []}, r"own.jsonl:2: checks: Tuple should have at least 1 item"),
        ({"checks": [{"equals": "x"}]}, "expected a prompt or messages"),
        ({**FINE, "messages": [{"role": "user", "content": "a"}]}, "expected a prompt or messages"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "checks": [{"equals": "x"}]},
            "begins with the assistant",
        ),
        ({**FINE, "checks": [{"regex": "("}]}, r"own.jsonl:2: checks.0: .*no regular expression"),
        ({**FINE, "example": "y"}, "its own example does not pass contains: 'y'"),
        ({**FINE, "weight": 1}, "weight: Extra inputs are not permitted"),
        (FINE, "own.jsonl:2: the same item stands there twice"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        suites.read(write(tmp_path, FINE, line), "own")


def test_a_suite_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"there is no .*none.jsonl; suites there: general"):
        suites.read(FOLDER, "none")
    with pytest.raises(DataError, match="holds no items"):
        suites.read(write(tmp_path), "own")


@settings(max_examples=60)
@given(items, st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_sample_depends_on_the_items_alone(drawn: list[Item], most: int, chance: Any) -> None:
    chosen, shuffled = suites.sample(drawn, most), list(drawn)
    chance.shuffle(shuffled)
    assert suites.sample(shuffled, most) == chosen
    every, some = (Counter((one.category, one.language) for one in each) for each in (drawn, chosen))
    assert some == {group: min(count, most) for group, count in every.items()}
    fewer = {one.id for one in suites.sample(drawn[1:], most)}
    assert len({one.id for one in chosen} - fewer) <= 1, "one item more or less moves one other"
    assert {one.id for one in suites.sample(drawn, None)} == {one.id for one in drawn}


@settings(max_examples=60)
@given(items, st.randoms(use_true_random=False))
def test_the_categories_make_the_suite(drawn: list[Item], chance: Any) -> None:
    outcomes = [suites.judge("own", one, chance.choice("xy")) for one in drawn]
    (figures,) = suites.figures(outcomes).values()
    assert figures.items == sum(share.items for share in figures.categories.values()) == len(drawn)
    passed = sum(share.items * share.passed for share in figures.categories.values())
    assert passed == pytest.approx(figures.items * figures.passed) == sum(outcome.whole for outcome in outcomes)


def test_an_item_that_changes_is_another() -> None:
    assert item("a").id == item("a").id
    assert len({item("a").id, item("b").id, item("a", category="z").id, item("a", checks=[{"contains": "y"}]).id}) == 4


def test_the_general_suite_is_whole() -> None:
    groups = Counter((one.category, one.language) for one in GENERAL)
    assert groups == {
        (category, language): 25
        for category in ("arithmetic", "formatting", "knowledge", "safety")
        for language in ("en", "de")
    }
    assert len({one.prompt for one in GENERAL}) == 200
    assert all(one.example for one in GENERAL), "each was tried on an answer that is right"


@pytest.mark.parametrize("answer", ["", "Sure! Here is how it works.", "Das weiß ich nicht.", "7", None])
def test_no_item_of_it_is_passed_by_chance(answer: str | None) -> None:
    """Nor by repeating the question (None)."""
    lucky = [
        one.prompt
        for one in GENERAL
        if suites.judge("general", one, one.prompt if answer is None else answer or "").whole
    ]
    right = [one.prompt for one in GENERAL if one.example == answer]
    assert lucky == right


SIGNS: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def value(node: Any) -> float:
    if isinstance(node, ast.Constant):
        return float(str(node.value))
    return SIGNS[type(node.op)](value(node.left), value(node.right))


def test_its_sums_are_right() -> None:
    """Those that are written as such, worked out anew."""
    done = 0
    for one in GENERAL:
        written = re.match(r"(?:What is|Was ist) ([\d (][\d +*/()x-]+)\?", one.prompt or "")
        if written:
            sum_ = ast.parse(written[1].replace("x", "*"), mode="eval").body
            assert value(sum_) == float(one.example or "nan"), one.prompt
            done += 1
    assert done == 22


def test_every_suite_that_is_shipped_can_be_read_and_has_its_row() -> None:
    names = sorted(file.stem for file in FOLDER.glob("*.jsonl"))
    table = (FOLDER.parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## Suites")[2]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (\d+) \|$", table, re.MULTILINE))
    assert rows == {name: str(len(suites.read(FOLDER, name))) for name in names} and len(rows) == 2
    assert all(one.example for name in names for one in suites.read(FOLDER, name))
