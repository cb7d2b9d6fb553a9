"""A model's own chat template, rendered in Jinja's immutable sandbox as transformers renders it.

`strftime_now` is left undefined: a template that would print today's date falls back to its fixed one,
so the same rows give the same text on every day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tasks.core.errors import DataError, ModelError


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks assistant text for transformers; here it renders its body and nothing else."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own way of naming an extension's tags

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """`render(messages)` gives the text that the model sees."""

    def __init__(self, source: str, tokens: Mapping[str, str], where: str) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        cast("dict[str, Any]", environment.globals)["raise_exception"] = _raise
        self._where, self._tokens = where, dict(tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"{where} is not a template that Jinja can read: {error}") from None

    @classmethod
    def of_model(cls, folder: Path) -> ChatTemplate:
        """The template in `chat_template.jinja`, or in `tokenizer_config.json` of older models."""
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if not isinstance(source, str):
            raise ModelError(f"{folder} has no chat template: add its chat_template.jinja")
        tokens = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
        return cls(source, tokens, str(file))

    def render(self, messages: Sequence[Mapping[str, str]], *, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, followed by the opening of the assistant's turn."""
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=prompt, **self._tokens)
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template {self._where} refuses this conversation: {error}") from None


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
