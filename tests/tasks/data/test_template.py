"""A template's text and spans: proved and compared spans agree, hostile templates are stopped, limits hold."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import DataError, ModelError
from tasks.data import template_limits
from tasks.data.template import ChatTemplate
from tests.tasks.data import chat_templates as bases

TOKENS = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
SHORT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
words = st.text("ab \n<|>", min_size=1, max_size=8).filter(str.strip)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, TOKENS, "T")


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(words)})
        for result in draw(st.lists(words, max_size=2)):
            call = {"type": "function", "function": {"name": "f", "arguments": {"x": draw(words)}}}
            turns += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": result}]
        turns.append({"role": "assistant", "content": draw(words)})
    return turns


@pytest.mark.parametrize("name", bases.PREFIX_STABLE)
def test_spans_are_what_renderings_of_the_prefixes_say(name: str) -> None:
    """The definition itself, for spans that were proved from one rendering and for those that were not."""
    made = template(bases.PREFIX_STABLE[name])

    @given(conversations())
    @settings(max_examples=60, deadline=None)
    def law(turns: list[dict[str, Any]]) -> None:
        found = made.conversation(turns)
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        assert found.text == made.render(turns)
        assert len(found.answers) == len(places)
        for place, (start, end) in zip(places, found.answers, strict=True):
            assert found.text[:start] == made.render(turns[:place], prompt=True)
            assert found.text[:end] == made.render(turns[: place + 1])
        assert found.opening == found.answers[-1][0]

    law()


@pytest.mark.parametrize(
    ("name", "proved"), [("chatml", True), ("default_system", True), ("sliced", False), ("looks_ahead", True)]
)
def test_one_rendering_is_enough_where_nothing_looks_ahead(
    name: str, proved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, prompts = template(bases.PREFIX_STABLE[name]), list[bool]()
    render = made.render
    monkeypatch.setattr(made, "render", lambda *given, **named: (prompts.append(True), render(*given, **named))[1])
    made.conversation(SHORT)
    assert bool(prompts) != proved


@pytest.mark.parametrize(
    "ahead",
    [
        "{% if loop.last %}!{% endif %}", "{{ messages | length }}", "{{ loop.length }}", "{{ messages[-1].content }}",
        "{% if loop.nextitem is defined %}!{% endif %}", "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}",
        "{% if add_generation_prompt %}!{% endif %}", "{{ loop['revindex'] }}", "{% set x = loop %}{{ x.last }}",
        "{% macro f() %}{{ messages | length }}{% endmacro %}{{ f() }}", "{{ [messages] | map('length') | list }}",
    ],
)  # fmt: skip
def test_whatever_looks_ahead_is_not_taken_for_proof(ahead: str) -> None:
    """Each would write earlier turns otherwise once later ones stand: it must be found out by comparison."""
    turn = "<|im_start|>{{ message.role }}\n{{ message.content }}" + ahead + "<|im_end|>"
    made = template("{% for message in messages %}" + turn + "{% endfor %}" + bases.CUE)
    with pytest.raises(DataError, match="prefix-stable"):
        made.conversation([*SHORT, *SHORT])


def test_what_is_read_before_the_turns_counts_too() -> None:
    made = template("{% if messages | length > 3 %}long{% endif %}" + bases.CHATML)
    assert made.conversation(SHORT).answers
    with pytest.raises(DataError, match="prefix-stable"):
        made.conversation([*SHORT, *SHORT])


def test_an_answer_that_a_prompt_opens_otherwise_is_refused() -> None:
    with pytest.raises(DataError, match="prefix-stable"):
        template(bases.CHATML.replace("assistant\n", "model\n")).conversation(SHORT)
    with pytest.raises(DataError, match="another text than it is asked with"):
        template(bases.BLOCKS_WITHOUT_END.replace("assistant\n", "model\n")).conversation(SHORT)


def test_a_message_s_field_does_not_hide_a_method() -> None:
    made = template("{{ messages[0].items() | length }} {{ messages[0].content }} {{ messages[0].absent is defined }}")
    assert made.render([{"role": "user", "content": "a", "items": "b"}]) == "3 a False"


def test_a_template_may_not_put_other_messages_in_their_place() -> None:
    made = template("{% set messages = [messages[0], {'role': 'assistant', 'content': 'x'}] %}" + bases.CHATML)
    with pytest.raises(DataError, match="prefix-stable"):
        made.conversation(SHORT)


def test_reasoning_that_is_left_out_later_is_refused() -> None:
    made = template(bases.THINKING)
    thought = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "hm</think>b"}]
    assert made.conversation(thought).answers
    with pytest.raises(DataError, match="prefix-stable"):
        made.conversation([*thought, *thought])


def test_generation_blocks_are_the_spans() -> None:
    found = template(bases.BLOCKS).conversation([*SHORT, *SHORT])
    assert [found.text[start:end] for start, end in found.answers] == ["b<|im_end|>\n"] * 2
    assert found.text[: found.opening].endswith("a<|im_end|>\n<|im_start|>assistant\n")


def test_blocks_within_a_macro_are_found() -> None:
    source = "{% macro say(m) %}<{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}>{% endmacro %}"
    source += "{% for m in messages %}{{ say(m) if m.role == 'assistant' else m.content }}{% endfor %}"
    found = template(source + "{% if add_generation_prompt %}<{% endif %}").conversation(SHORT)
    assert [found.text[start:end] for start, end in found.answers] == ["b<|im_end|>"]


def test_blocks_that_a_filter_sees_are_refused() -> None:
    source = "{% macro say(m) %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endmacro %}"
    source += "{% for m in messages %}{{ say(m) | length }}{% endfor %}"
    with pytest.raises(DataError, match="alters its generation blocks"):
        template(source).conversation(SHORT)


def test_blocks_without_words_are_refused() -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        template("{% generation %}{% endgeneration %}" + bases.CHATML).conversation(SHORT)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}", "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__'))|attr('__mro__')|list|first|attr('x')() }}", "{{ self._TemplateReference__context.x }}",
        "{{ namespace.__init__.__globals__['os'].popen('id').read() }}", "{{ range.__self__.__import__('os') }}",
        "{{ raise_exception.__globals__['__builtins__'] }}", "{% include '/etc/passwd' %}", "{% import 'os' as o %}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "{{ joiner.__init__.__globals__.os }}",
        "{{ messages[0].clear() }}", "{{ ''.join.__self__.__class__ }}", "{{ tools.__class__() }}",
        "{{ messages[0].__class__ }}", "{{ loop.__init__.__globals__ }}", "{{ dict.fromkeys.__self__.mro() }}",
        "{{ ''|attr('__class__') }}", "{{ self._TemplateReference__context }}", "{{ [''] | map(attribute='__class__') | list }}",
    ],
)  # fmt: skip
def test_a_template_can_t_reach_python(attack: str) -> None:
    """Jinja refuses, or hands out its undefined value, which is written as nothing."""
    try:
        text = template(attack).render(SHORT)
    except DataError as error:
        assert "chat template T refuses" in str(error)
    else:
        assert text in ("", "[Undefined]")


@pytest.mark.parametrize("name", ["strftime_now", "lipsum"])
def test_neither_the_day_nor_chance_is_there(name: str) -> None:
    assert template("{{ 'there' if " + name + " is defined else 'absent' }}").render(SHORT) == "absent"


def test_a_refusal_has_the_template_s_own_words() -> None:
    made = template(bases.NO_SYSTEM)
    with pytest.raises(DataError, match="System role not supported"):
        made.render([{"role": "system", "content": "s"}, *SHORT])
    with pytest.raises(DataError, match="Roles must alternate"):
        made.render([SHORT[0], SHORT[0]])


def test_a_broken_template_is_named() -> None:
    with pytest.raises(ModelError, match="T is not a template that Jinja can read"):
        template("{% for %}")


@pytest.mark.parametrize(
    ("bomb", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "processor time"),
        # Copying what doubles is work as well: on a busy machine the time is up before the memory is.
        (
            "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "memory|processor time",
        ),
        ("{{ '{:9999999999}'.format(1) }}", "memory"),
    ],
)  # fmt: skip
def test_a_bomb_goes_off_in_the_child(bomb: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        template(bomb)


# The handler may first run within a callback of Hypothesis's, which swallows what it raises; the next tick raises again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_row_that_takes_all_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "_GROWTH_KIB", 1 << 16)  # 64 MiB
    monkeypatch.setattr(template_limits, "_RENDER_TICKS", 1 << 10)  # on a slow machine the time would be up first
    grow = "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% for j in range(999) %}"
    grow += "{% set n.x = [n.x, 'aaaaaaaaaaaa' * 99] %}{% endfor %}{% endfor %}"
    made = template("{% if messages[0].content == 'boom' %}" + grow + "{% endif %}" + bases.CHATML)
    with pytest.raises(DataError, match="of memory"):
        made.render([{"role": "user", "content": "boom"}])


def test_repetition_is_bounded() -> None:
    with pytest.raises(DataError, match="would make a value"):
        template("{{ messages[0].content * 9999999999 }}").render(SHORT)


def test_an_endless_row_is_stopped_and_the_timer_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "_RENDER_TICKS", 4)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    made = template("{% if messages[0].content == 'boom' %}" + loop + "{% endif %}" + bases.CHATML)
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(DataError, match="took more than 1 s"):
        made.render([{"role": "user", "content": "boom"}])
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert made.render(SHORT)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    VALUES,
    st.sampled_from([{}, {"ensure_ascii": True}, {"indent": 2}, {"sort_keys": True}, {"separators": (",", ":")}]),
)
@settings(max_examples=60, deadline=None)
def test_tojson_writes_what_transformers_filter_writes(value: Any, how: dict[str, Any]) -> None:
    arguments = ", ".join(f"{key}={argument!r}" for key, argument in how.items()).replace("True", "true")
    source = "{% if messages %}{{ messages[0].content | tojson(" + arguments + ") }}{% endif %}"
    expected = json.dumps(value, **{"ensure_ascii": False, **how})
    assert template(source).render([{"role": "user", "content": value}]) == expected


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.of_model(tmp_path).render(SHORT) == "plain"
    assert ChatTemplate.of_model(tmp_path, "tool_use").render(SHORT) == "tools"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("a file")
    (tmp_path / "chat_template.jinja").write_text("the file")
    assert ChatTemplate.of_model(tmp_path).render(SHORT) == "the file"
    assert ChatTemplate.of_model(tmp_path, "tool_use").render(SHORT) == "a file"
    assert ChatTemplate.of_model(tmp_path, "rag").render(SHORT) == "the file"
