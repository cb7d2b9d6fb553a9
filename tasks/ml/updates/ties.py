"""Where each update falls in the base's files. A head that is tied to the embeddings has no tensor of its own there:
it stays tied if training left both equal, else it becomes one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.errors import ModelError
from tasks.ml.updates import Update, Updates, same

Read = Callable[[str], Tensor]
INSIDE = re.compile(r"\.\d+\.")
"""In the names of what belongs to one of several layers."""


@dataclass(frozen=True)
class Place:
    """A tensor of the files to be written: made by `update` from the base's tensor `source`, mostly the one of its name."""

    source: str
    update: Update


@dataclass(frozen=True)
class Plan:
    """`places` by the tensor's name in the files; `untied`: the head is now a tensor of its own."""

    places: Mapping[str, Place]
    untied: bool


def plan(base: Path, updates: Updates, names: Collection[str], read: Read) -> Plan:
    """`names` are the tensors of the base's files, `read` gives one in float32.

    ModelError: an update is of a tensor that the base does not have.
    """
    # Neither end is a numbered layer's, and who knows this without asking spares itself transformers' import.
    ends = None if all(INSIDE.search(name) for name in updates) else _tied(base)
    embedding, head = (find(end, names) for end in ends) if ends else (None, None)
    if ends is None or embedding is None or not updates.keys() & set(ends):
        return Plan(
            {_known(name, names, base): Place(_known(name, names, base), updates[name]) for name in updates}, False
        )
    places = {name: update for name, update in updates.items() if name not in ends}
    made = {_known(name, names, base): Place(_known(name, names, base), update) for name, update in places.items()}
    of_embedding, of_head = _both(updates, *ends, read(embedding))
    untied = of_head is not of_embedding
    if of_embedding is not _SAME:
        made[embedding] = Place(embedding, of_embedding)
    if untied or head is not None:
        made[head or ends[1]] = Place(embedding, of_head)
    return Plan(made, untied)


_SAME = Update(same)


def _both(updates: Updates, embedding: str, head: str, before: Tensor) -> tuple[Update, Update]:
    """The updates of embeddings and head; one and the same object where they stay equal."""
    first = updates.get(embedding, _SAME)
    second = updates.get(head, _SAME if first.alone else first)
    if second is not first and torch.equal(first.value(before), second.value(before)):
        return first, first
    return first, second


def _known(name: str, names: Collection[str], base: Path) -> str:
    found = find(name, names)
    if found is None:
        raise ModelError(f"the adapter changes {name}, which the base {base} does not have: wrong base")
    return found


def find(name: str, names: Collection[str]) -> str | None:
    """The tensor's name in the files, which may leave out the first part that the model has (`transformer.`); None: it is
    not there."""
    return next((each for each in (name, name.partition(".")[2]) if each in names), None)


def _tied(base: Path) -> tuple[str, str] | None:
    """The names of the embeddings' and the head's weights where they are one tensor; None where they are two."""
    from tasks.ml import loading

    model: Any = loading.empty(base)
    if not model.config.get_text_config().tie_word_embeddings:
        return None
    modules: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    ends: list[nn.Module | None] = [model.get_input_embeddings(), model.get_output_embeddings()]
    embedding, head = (None if end is None else f"{modules[id(end)]}.weight" for end in ends)
    return (embedding, head) if embedding and head else None
