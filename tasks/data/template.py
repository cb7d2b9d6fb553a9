"""A model's own chat template: the text that it makes of a conversation, and which words are the assistant's.

`strftime_now` is left undefined: a template that would print today's date falls back to its fixed one,
so the same rows give the same text on every day.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from tasks.core.errors import DataError, ModelError
from tasks.data import template_trace
from tasks.data.sandbox import CLOSE, FAULTS, OPEN, PEEKS, TURN, environment
from tasks.data.template_limits import WATCH, TemplateOverrunError, vet

Turn = Mapping[str, Any]
Span = tuple[int, int]

_MARK = re.compile("(" + "|".join(map(re.escape, (OPEN, CLOSE, TURN))) + ")")
_BUFFERS = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. `answers` are the character spans of what the assistant says, from the end of each
    opening; `opening` is where the last one begins: `text[:opening]` is the prompt that asks for it.

    `blocks`: the spans are the template's own `{% generation %}` blocks.
    """

    text: str
    answers: list[Span]
    opening: int
    blocks: bool


class ChatTemplate:
    """One compiled template. `cue` is what opens an answer, where that is the same in every conversation.

    ModelError: the source is no Jinja, or needs more time or memory than a template can.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], where: str) -> None:
        vet(source, tuple(sorted(tokens.items())), where)
        self._where, self._tokens = where, dict(tokens)
        marked = environment(marked=True)
        tree = marked.parse(source)
        self.blocks = _has_blocks(tree)
        self._unmarked = environment(marked=False).from_string(source) if _is_buffered(tree) else None
        tail = template_trace.instrument(tree)
        self._template = jinja2.Template.from_code(marked, marked.compile(tree), marked.make_globals(None))
        self.cue = self._constant_cue(marked, tail) if tail else None

    @classmethod
    def of_model(cls, folder: Path, name: str = "default") -> ChatTemplate:
        """The template of that name, or the default one: of `chat_template.jinja` and `additional_chat_templates/`,
        or of `tokenizer_config.json` in older models."""
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
        sources = _sources(folder, config.get("chat_template"))
        where = sources.get(name) or sources.get("default")
        if where is None:
            raise ModelError(f"{folder} has no chat template: add its chat_template.jinja")
        tokens = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
        return cls(where[0], tokens, where[1])

    def render(self, turns: Sequence[Turn], tools: Sequence[Any] = (), *, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, followed by the opening of the assistant's turn.

        DataError: the template refuses the conversation.
        """
        with WATCH:
            return _MARK.sub("", self._run(self._template, turns, tools, prompt, []))

    def conversation(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> Rendered:
        """The whole conversation, which ends with an answer, and the spans of what is the assistant's.

        Law: `text[:opening]` equals `render(turns[:-1], tools, prompt=True)`. Without blocks, the same holds for each
        answer's span and the turns before it, and the text up to its end is `render` of the turns up to it.
        DataError: the template refuses the conversation, or one of these does not hold for it.
        """
        with WATCH:
            peeks = list[bool]()
            marked = self._run(self._template, turns, tools, False, peeks)
            text, starts, blocks = _without_marks(marked) if self.blocks else _without_turns(marked)
            if self._unmarked and text != self._run(self._unmarked, turns, tools, False, []):
                raise DataError(f"the chat template {self._where} alters its generation blocks: write them plainly")
            proved = None if peeks else self._proved(text, starts, turns)
            if self.blocks:
                if not any(start < end for start, end in blocks):
                    raise DataError(f"the generation blocks of {self._where} are empty here: nothing to learn")
                return Rendered(text, blocks, proved[-1][0] if proved else self._opening(text, turns, tools), True)
            spans = proved or self._compared(text, turns, tools)
            return Rendered(text, spans, spans[-1][0], False)

    def _proved(self, text: str, starts: list[int], turns: Sequence[Turn]) -> list[Span] | None:
        """The answers' spans by construction (`template_trace`); None where this rendering is no proof."""
        cue = self.cue
        if cue is None or len(starts) != len(turns) + 1 or starts[-1] != len(text):
            return None
        spans = list[Span]()
        for place, turn in enumerate(turns):
            if turn["role"] == "assistant":
                start, end = starts[place] + len(cue), starts[place + 1]
                if start > end or not text.startswith(cue, starts[place]):
                    return None
                spans.append((start, end))
        return spans

    def _compared(self, text: str, turns: Sequence[Turn], tools: Sequence[Any]) -> list[Span]:
        """The same, by rendering every prefix."""
        spans, last = list[Span](), len(turns) - 1
        for place, turn in enumerate(turns):
            if turn["role"] == "assistant":
                opening = self.render(turns[:place], tools, prompt=True)
                so_far = text if place == last else self.render(turns[: place + 1], tools)
                if not (so_far.startswith(opening) and text.startswith(so_far)):
                    raise DataError(
                        f"the chat template {self._where} writes earlier turns differently once later ones follow, so "
                        "which words are the assistant's can't be told: give the model a prefix-stable "
                        "chat_template.jinja or one with generation blocks"
                    )
                spans.append((len(opening), len(so_far)))
        return spans

    def _opening(self, text: str, turns: Sequence[Turn], tools: Sequence[Any]) -> int:
        opening = self.render(turns[:-1], tools, prompt=True)
        if not text.startswith(opening):
            raise DataError(
                f"the chat template {self._where} opens an answer otherwise in a prompt than in the conversation, so "
                "the model would be trained on another text than it is asked with: mend chat_template.jinja"
            )
        return len(opening)

    def _constant_cue(self, marked: jinja2.Environment, tail: nodes.Template) -> str | None:
        """What follows the turns with `add_generation_prompt`, if nothing does without."""
        code = jinja2.Template.from_code(marked, marked.compile(tail), marked.make_globals(None))
        try:
            with WATCH:
                asked, ended = (_MARK.sub("", self._run(code, [], (), prompt, [])) for prompt in (True, False))
        except DataError:
            return None
        return asked if asked and not ended else None

    def _run(
        self, template: jinja2.Template, turns: Sequence[Turn], tools: Sequence[Any], prompt: bool, peeks: list[bool]
    ) -> str:
        WATCH.renders += 1
        try:
            return template.render(
                messages=list(turns), tools=list(tools) or None, documents=None, add_generation_prompt=prompt,
                **self._tokens, **{PEEKS: peeks},
            )  # fmt: skip
        except (*FAULTS, TemplateOverrunError) as error:
            raise DataError(f"the chat template {self._where} refuses this conversation: {error}") from None


def _without_marks(marked: str) -> tuple[str, list[int], list[Span]]:
    """The text, the places of its turn marks, and the spans between its block marks."""
    pieces, place, turns, opens, spans = list[str](), 0, list[int](), list[int](), list[Span]()
    for piece in _MARK.split(marked):
        if piece == TURN:
            turns.append(place)
        elif piece == OPEN:
            opens.append(place)
        elif piece == CLOSE and opens:
            spans.append((opens.pop(), place))
        else:
            pieces.append(piece)
            place += len(piece)
    return "".join(pieces), turns, spans


def _without_turns(marked: str) -> tuple[str, list[int], list[Span]]:
    """The same for a template without blocks, where it is most of the work."""
    pieces = marked.split(TURN)
    starts = list(itertools.accumulate(map(len, pieces)))
    return "".join(pieces), starts[:-1], []


def _has_blocks(tree: nodes.Template) -> bool:
    return any(text.data == OPEN for text in tree.find_all(nodes.TemplateData))


def _is_buffered(tree: nodes.Template) -> bool:
    """Whether a block's text is a value before it is output, so that a filter could see its marks."""
    buffers = tree.find_all(_BUFFERS)
    return any(text.data == OPEN for buffer in buffers for text in buffer.find_all(nodes.TemplateData))


def _sources(folder: Path, configured: Any) -> dict[str, tuple[str, str]]:
    """Each named template, and where it stands."""
    where = str(folder / "tokenizer_config.json")
    if isinstance(configured, str):
        found = {"default": (configured, where)}
    else:
        found = {named["name"]: (named["template"], f"{where} ({named['name']})") for named in configured or ()}
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    return found | {name: (path.read_text(encoding="utf-8"), str(path)) for name, path in files.items()}


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
