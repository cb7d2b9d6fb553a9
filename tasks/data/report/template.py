"""The page's and the card's Jinja2 templates, found beside this file wherever it is installed."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from tasks.data.report import tables, units

if TYPE_CHECKING:
    from jinja2 import Environment

REPLACED = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **{code: f"[U+{code:04X}]" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)},
}
"""Control characters get their pictures, and direction marks their names: text can't rearrange the page around it."""


def visible(text: str) -> str:
    return text.translate(REPLACED)


def render(name: str, **values: object) -> str:
    """A template's text. A name that the template lacks a value for is an error; HTML is escaped in `.html.j2`."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

    folder = resources.files("tasks.data.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "amount": units.as_text,
        "difference": units.as_difference,
        "visible": visible,
        "markdown": tables.escape,
    }
    return environment
