"""Which registered version a training goes on from, as the base's manifest tells the stages after it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from tasks.core.manifest import Manifest

FROZEN = "frozen"
"""The folder in a base of that version's adapter, where it stays beside the weights and does not train."""


class Continued(BaseModel):
    """`reference` is NAME@vN; it has learned the rows of the data versions up to `data`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    keep: Literal["merged", "frozen"]
    data: int

    @classmethod
    def of(cls, base: Manifest) -> Self | None:
        """None: the base is as its makers published it, and every row is new to it."""
        found = base.facts.get("continues")
        return None if found is None else cls.model_validate(found)
