"""What a model scored, row by row, without the texts: all that the gate looks at."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

LOSS = "loss"
"""Beside the metrics, and the lower the better."""


class Scores(BaseModel):
    """One entry a test row, in all of them. `evaluation`: digest of the manifest of what was measured.

    metrics: None where a row has no value of it. loss: mean over the row's answer in nats; tokens: how many those are.
    slices: the places of the rows of each part by its name. suites: 1 for every item that passed, else 0, by its id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    evaluation: str
    ids: tuple[str, ...]
    tokens: tuple[int, ...]
    loss: tuple[float | None, ...]
    metrics: dict[str, tuple[float | None, ...]]
    slices: dict[str, tuple[int, ...]]
    suites: dict[str, dict[str, float]]

    @model_validator(mode="after")
    def _one_entry_a_row(self) -> Self:
        for values in (self.tokens, self.loss, *self.metrics.values()):
            if len(values) != len(self.ids):
                raise ValueError(f"{len(values)} values for {len(self.ids)} rows")
        return self

    def better(self, name: str) -> tuple[float | None, ...]:
        """The values of a metric, or of the loss with its sign turned: more is better."""
        if name != LOSS:
            return self.metrics[name]
        return tuple(None if value is None else -value for value in self.loss)
