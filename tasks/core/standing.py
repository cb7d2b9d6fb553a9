"""How a finished folder stands to the adapter: changed by it, beside it, or not made because of it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from tasks.core.manifest import Manifest

BESIDE = "adapter"
"""The folder of an adapter that stands beside the weights in the same output."""


class Standing(BaseModel):
    """`merged`: the weights hold what was trained; else the adapter lies in the folder BESIDE.
    `made`: there are weights at all. `why`: one sentence for whoever expects otherwise."""

    model_config = ConfigDict(frozen=True)

    merged: bool = True
    made: bool = True
    why: str | None = None

    @classmethod
    def of(cls, sealed: Manifest) -> Self:
        """As the manifest's facts say; a folder that says nothing holds whole weights."""
        return cls.model_validate(sealed.facts)

    @property
    def facts(self) -> dict[str, Any]:
        return self.model_dump()

    @property
    def note(self) -> str | None:
        """For a reader of results; None where there is nothing to know."""
        if not self.made:
            return f"not made: {self.why}"
        return None if self.merged else f"not merged, the adapter stands beside its base: {self.why}"
