"""How a format is to be made: what it learns from, and what is left at higher precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.data.chatset import Tokens

Remedy = Literal["importance", "ends", "layers"]


@dataclass(frozen=True)
class Recipe:
    """calibration: rows of the training split, in a fixed order. importance: weights count by how strongly their inputs
    are active on these rows. ends: embeddings and head keep a higher precision, and so do the decoder blocks of `keep`,
    named as modules are (`model.layers.7`).
    """

    calibration: Sequence[Tokens] = ()
    importance: bool = False
    ends: bool = False
    keep: frozenset[str] = frozenset()

    @property
    def facts(self) -> dict[str, Any]:
        """What differs from the plain way, for the manifest."""
        return {"importance": self.importance, "ends": self.ends, "keep": sorted(self.keep)}
