"""The language where it is sure, and silence where it is not."""

from __future__ import annotations

import pytest

from tasks.core.errors import ParamsError
from tasks.core.sections import Languages
from tasks.data.quality import language
from tasks.data.rows import Message, Row


def row(question: str, answer: str) -> Row:
    return Row(id="1", messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "The device is offline since the update and I have no idea what to do about it."),
        ("de", "Das Gerät ist seit dem Update nicht mehr erreichbar und ich weiß nicht weiter."),
        ("fr", "L'appareil est hors ligne depuis la mise à jour et je ne sais pas quoi faire."),
        ("es", "Quiero reservar una mesa para dos personas el viernes por la noche, por favor."),
        ("sv", "Jag tycker om att läsa böcker på kvällen när det är mörkt ute."),
        ("ru", "Здравствуйте, я хотел бы узнать, когда будет доставлен мой заказ, спасибо."),
        ("zh", "我的设备在更新之后无法连接，请帮忙。"), ("ja", "犬は走った。とても速い。"), ("ko", "안녕하세요 도와주세요"),
        (language.UNKNOWN, ""), (language.UNKNOWN, "ok thanks"), (language.UNKNOWN, "12345 67890 12345 67890 12345"),
        (language.MIXED, "把“Charles loves to ride his bike”变成修辞问句"),
    ],
)  # fmt: skip
def test_languages(code: str, text: str) -> None:
    assert language.of(text) == code


def test_a_translation_is_mixed_and_never_dropped() -> None:
    translation = row(
        "Translate to German: I would like to have a coffee with milk.", "Ich möchte einen Kaffee mit Milch, bitte."
    )
    assert language.of_row(translation) == language.MIXED
    assert language.examine(translation, Languages(action="drop", allowed=("fr",))) == []


def test_only_sure_strangers_are_found() -> None:
    german = row(
        "Was ist das denn für ein Gerät, und wie wird es bedient?", "Das ist ein Thermostat und es wird gedreht."
    )
    assert language.examine(german, Languages(action="drop", allowed=("en",)))[0].detail == "language: de"
    assert language.examine(german, Languages(action="drop", allowed=("en", "de"))) == []
    assert language.examine(german, Languages(action="ignore")) == []
    assert language.examine(row("hi", "ho"), Languages(action="drop", allowed=("en",))) == []


def test_json_answers_say_nothing_about_the_language() -> None:
    ticket = row(
        "Das Gerät ist nicht mehr erreichbar und ich weiß nicht weiter.",
        '{"summary": "the device is offline and more"}',
    )
    assert language.of_row(ticket) == "de"


@pytest.mark.parametrize("allowed", [(), ("english",), ("en", "xx")])
def test_an_unknown_code_is_refused(allowed: tuple[str, ...]) -> None:
    with pytest.raises(ParamsError, match=r"prepare.quality.languages.allowed: expected some of af, am, .*; found"):
        language.examine(row("the question that is asked", "the answer"), Languages(action="drop", allowed=allowed))
