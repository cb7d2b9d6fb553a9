"""Which tokens of a forward pass are edited: told for each row by its prompt, in a pack as in a padded batch."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml.packing import Pack

Places = Mapping[str, Tensor]
"""Group -> indices into the tokens of the pass, rows one after another. No token is in two groups."""


@dataclass(frozen=True)
class Positions:
    """`f7+l7`: the first and the last 7 tokens of a prompt, two groups or, tied, one; `prompt`: all of its tokens;
    `all`: every token, answers included."""

    wanted: str
    tied: bool

    @property
    def groups(self) -> tuple[str, ...]:
        return ("first", "last") if "+" in self.wanted and not self.tied else ("tokens",)

    def of(self, length: int) -> dict[str, list[int]]:
        """Offsets within a prompt of so many tokens. One shorter than both ends is split between them."""
        if self.wanted in ("all", "prompt"):
            return {"tokens": list(range(length))}
        counts = {match[0]: int(match[1:]) for match in re.findall(r"[fl]\d+", self.wanted)}
        half = length // 2 if len(counts) == 2 else length
        first = list(range(min(counts["f"], half))) if "f" in counts else []
        room = length - half if len(counts) == 2 else length
        last = list(range(length - min(counts["l"], room), length)) if "l" in counts else []
        return {"first": first, "last": last} if len(self.groups) == 2 else {"tokens": first + last}

    def at(self, starts: Iterable[int], lengths: Iterable[int]) -> Places:
        """In a pass whose prompts begin at these indices."""
        found: dict[str, list[int]] = {group: [] for group in self.groups}
        for start, length in zip(starts, lengths, strict=True):
            for group, offsets in self.of(length).items():
                found[group] += [start + offset for offset in offsets]
        return {group: torch.tensor(indices, dtype=torch.long) for group, indices in found.items()}


@dataclass
class Guide:
    """Stands before the model: tells its layers, as the argument `edits`, where this pass is to be edited."""

    positions: Positions
    _prompts: Sequence[int] | None = field(default=None, init=False)

    @contextmanager
    def within(self, pack: Pack) -> Generator[None]:
        """The pass is over this pack: prompts end where the answers' predictions begin."""
        self._prompts = prompts(pack)
        try:
            yield
        finally:
            self._prompts = None

    def __call__(self, _model: Any, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = [*inputs, named.get("inputs_embeds"), named.get("input_ids")]  # GPT-2 is given its ids by position
        states = next(tensor for tensor in given if tensor is not None)
        places = self._packed(named["lengths"]) if "lengths" in named else self._batch(named, *states.shape[:2])
        moved = {group: where.to(states.device) for group, where in places.items()}
        return inputs, {**named, "edits": moved}

    def _packed(self, lengths: Sequence[int]) -> Places:
        starts = [sum(lengths[:place]) for place in range(len(lengths))]
        everything = self._prompts is None or self.positions.wanted == "all"
        return self.positions.at(starts, lengths if everything else self._prompts or ())

    def _batch(self, named: Mapping[str, Any], rows: int, width: int) -> Places:
        """The first pass of a generation holds the prompts, padded on the left; later ones, with a cache, none."""
        cache, mask = named.get("past_key_values"), named.get("attention_mask")
        past = 0 if cache is None else int(cache.get_seq_length())
        if past:
            return self.positions.at(range(rows * width), [1 if self.positions.wanted == "all" else 0] * rows * width)
        if mask is not None and mask.dim() != 2:
            raise ModelError("reft needs the plain mask of the padding, (rows, tokens): generate with the usual cache")
        sizes = [width] * rows if mask is None else mask.sum(1).tolist()
        starts = [0] * rows if mask is None else mask.int().argmax(1).tolist()
        return self.positions.at([row * width + start for row, start in enumerate(starts)], sizes)


def prompts(pack: Pack) -> list[int]:
    """Tokens of each row before its first answer; all of them where it has none."""
    found: list[int] = []
    start, predictors = 0, pack.predictors.tolist()
    for length in pack.lengths:
        inside = [place for place in predictors if start <= place < start + length]
        found.append(inside[0] - start + 1 if inside else length)
        start += length
    return found
