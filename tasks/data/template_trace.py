"""Where each turn begins and ends in a rendered conversation, from one rendering and by construction.

A template runs from front to back. As long as it has read nothing that tells of later turns, its text so far is what
it would have written had the conversation ended there: rendering is prefix-stable up to that point. So the loop over
`messages` is marked at each turn, and every expression that could see ahead (`messages` itself other than its first,
`loop.last`, `add_generation_prompt`, ...) notes its own evaluation. A rendering without such a note is proved; one
with it has to be compared with renderings of its prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from tasks.data.sandbox import PEEKS, TURN, written

_BACKWARD = frozenset(("first", "index", "index0", "previtem", "depth", "depth0"))
_AHEAD = frozenset(("messages", "add_generation_prompt"))
# What splits a template over several functions or files: the order of the text is no longer the order of the tree.
_SPLIT: tuple[type[nodes.Node], ...] = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


def instrument(tree: nodes.Template) -> nodes.Template | None:
    """Mark the tree's turns, in place; the part after the turns, which writes the opening of an answer.

    None, and the tree untouched: the template's shape allows no proof.
    """
    loops = [node for node in tree.body if isinstance(node, nodes.For) and _reads(node.iter, "messages")]
    if len(loops) != 1 or not _simple(loops[0]) or any(tree.find(kind) for kind in _SPLIT):
        return None
    stored = _stores(tree)
    if stored & {"messages", "loop", "add_generation_prompt"}:
        return None
    place = tree.body.index(loops[0])
    head, tail = tree.body[:place], nodes.Template(tree.body[place + 1 :])
    if _loads(tail.body) & (stored | {"messages", "tools", "documents", "loop"}):
        return None
    _note_peeks(head, _AHEAD)
    _note_peeks(loops[0].body, _AHEAD | {"loop"})
    loops[0].body.insert(0, written(TURN))
    tree.body.insert(place + 1, written(TURN))
    tail.set_environment(_environment(tree))
    return tail


def _simple(loop: nodes.For) -> bool:
    return isinstance(loop.iter, nodes.Name) and not (loop.test or loop.else_ or loop.recursive)


def _reads(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def _environment(tree: nodes.Template) -> jinja2.Environment:
    assert tree.environment is not None
    return tree.environment


def _loads(body: Iterable[nodes.Node]) -> set[str]:
    return {name.name for node in body for name in _all(node, nodes.Name) if name.ctx == "load"}


def _stores(tree: nodes.Template) -> set[str]:
    names = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    return names | {macro.name for macro in tree.find_all(nodes.Macro)}


def _all(node: nodes.Node, kind: type[nodes.Name]) -> list[nodes.Name]:
    return ([node] if isinstance(node, kind) else []) + list(node.find_all(kind))


def _note_peeks(body: list[nodes.Node], names: frozenset[str]) -> None:
    body[:] = [_Noter(names).visit(node) for node in body]


class _Noter(NodeTransformer):
    """Wraps each load of a name that could see ahead in a filter that notes its evaluation."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802  Jinja's visitor names methods so
        if node.ctx != "load" or node.name not in self._names:
            return node
        return nodes.Filter(node, PEEKS, [nodes.Name(PEEKS, "load")], [], None, None, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if _reads(node.node, "messages") and isinstance(node.arg, nodes.Const) and _is_first(node.arg.value):
            return node
        if _reads(node.node, "loop") and isinstance(node.arg, nodes.Const) and node.arg.value in _BACKWARD:
            return node
        return self.generic_visit(node)

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        return node if _reads(node.node, "loop") and node.attr in _BACKWARD else self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Inside a loop of its own, `loop` tells of that one; what it goes through is seen from outside."""
        node.iter = self.visit(node.iter)
        inner = _Noter(self._names - {"loop"})
        node.test = inner.visit(node.test) if node.test else None
        node.body = [inner.visit(child) for child in node.body]
        node.else_ = [self.visit(child) for child in node.else_]
        return node


def _is_first(value: Any) -> bool:
    return type(value) is int and value == 0
