"""The child of `tasks.data.template_limits.vet`: renders a template under hard limits and says what became of it.

Imports nothing but Jinja: it is started for every template that a process meets.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import jinja2

from tasks.data.sandbox import FAULTS, environment

_CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
_TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
    }
]
_SHORT: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
_LONG = [{"role": "system", "content": "Be brief."}, *_SHORT, {"role": "user", "content": "More"}]
_TOOLED = [
    *_LONG,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "look", "content": "seen"},
    {"role": "assistant", "content": "Done"},
]


def main() -> int:
    seconds, size = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, tokens = json.loads(sys.stdin.read())
    try:
        _try(source, tokens)
    except jinja2.TemplateSyntaxError as error:
        print(f"is not a template that Jinja can read: {error}")
    except MemoryError:
        print(f"took more than {size >> 20} MiB of memory on a short conversation: look for an endless loop in it")
    else:
        print("fine")
    return 0


def _try(source: str, tokens: dict[str, str]) -> None:
    """Every rendering is tried; what one refuses is for the rows that need it to hear."""
    template = environment(marked=False).from_string(source)
    for messages, tools in ((_SHORT, None), (_LONG, None), (_TOOLED, _TOOLS)):
        for prompt in (False, True):
            try:
                template.render(messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **tokens)
            except FAULTS:
                continue


if __name__ == "__main__":
    sys.exit(main())
