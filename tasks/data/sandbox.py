"""Jinja's immutable sandbox as transformers sets it up for chat templates, with what would make rendering depend on
the day or on chance taken out.

The sandbox stops attribute tricks. It stops neither endless loops nor memory: see `tasks.data.template_limits`.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

# Marks are written into the rendered text and taken out again. They are drawn anew in each process, so that no row can
# spell one, and are digits alone, so that `upper`, `trim` and `tojson` leave them as they are.
_NONCE = str(secrets.randbits(128)).zfill(39)
OPEN = f"\x00{_NONCE}1\x00"
CLOSE = f"\x00{_NONCE}2\x00"
TURN = f"\x00{_NONCE}3\x00"
FORGED = f"99{_NONCE}"
PEEKS = f"peeks_{_NONCE}"

# What a template's own code may raise on a row that it was not written for.
FAULTS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip

_CONSTANT_SIZE = 1 << 20
_DICT = frozenset(dir(dict))
_LOOP = frozenset(("first", "last", "index", "index0", "length", "revindex", "revindex0"))


class _Plain(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text; here it renders its body and nothing else."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own way of naming an extension's tags

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Marked(_Plain):
    """The body between marks."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        return [written(OPEN), *super().parse(parser), written(CLOSE)]


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Repetition and powers are bounded: one such operation can take all memory before any limit can look."""

    intercepted_binops = frozenset(("*", "**"))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Two short ways for what templates ask most, with the long way's result: a message's field, `loop.first`."""
        if type(obj) is dict and attribute not in _DICT and attribute in obj:
            return cast("dict[str, Any]", obj)[attribute]
        if type(obj) is jinja2.runtime.LoopContext and attribute in _LOOP:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        size = max((len(side) for side in (left, right) if isinstance(side, str | list | tuple)), default=0)
        times = max((side for side in (left, right) if isinstance(side, int)), default=0)
        if (operator == "**" and times > 1 << 10) or (size and size * times > _CONSTANT_SIZE):
            raise jinja2.TemplateRuntimeError(f"{operator} would make a value of more than {_CONSTANT_SIZE} characters")
        return super().call_binop(context, operator, left, right)


def environment(*, marked: bool) -> jinja2.Environment:
    """The sandbox; `marked` writes OPEN and CLOSE around `{% generation %}`."""
    made = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Marked if marked else _Plain, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.filters[PEEKS] = _peek
    del made.filters["random"]
    names = cast("dict[str, Any]", made.globals)
    names["raise_exception"] = _raise
    del names["lipsum"]
    return made


def written(text: str) -> jinja2.nodes.Output:
    """A node that writes the text."""
    return jinja2.nodes.Output([jinja2.nodes.TemplateData(text)])


def _peek(value: Any, seen: list[bool]) -> Any:
    seen.append(True)
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers' filter: Jinja's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
