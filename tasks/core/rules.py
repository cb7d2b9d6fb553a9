"""The sections of params.yaml that decide: the gate, when to train unasked, how long things may take. No DVC stage reads them."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, StringConstraints

from tasks.core.sections import Count, Name, Section

Span = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
"""Hours of a day; a span that ends before it begins goes past midnight."""


def _timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("no such time zone; write UTC or a name such as Europe/Berlin")
    return name


Step = Literal["fetch", "prepare", "train", "merge", "quantize", "evaluate", "judge", "report", "promote"]
"""What runs for as long as it takes."""


class Rows(Section):
    """What the gate wants to have been learned from and judged on, at least."""

    train: Count = 1
    test: Annotated[Count, Field(description="fewer tell nothing apart")] = 30
    slice: Annotated[Count, Field(description="of one tag or length, to be judged apart")] = 10


class PromoteParams(Section):
    """The gate: what a version has to show before it takes the champion's place."""

    alias: Annotated[Name, Field(description="that names the version in service")] = "champion"
    target: Annotated[Name, Field(description="what is compared: merged, adapter, or a format")] = "merged"
    floors: dict[Name, float] = Field(
        default_factory=dict[str, float], description="{exact_match: 0.2}: below it nothing is promoted"
    )
    margin: Annotated[
        float,
        Field(ge=0, description="that each metric may be worse than the base's and the champion's, the whole interval"),
    ] = 0.05
    better: Annotated[
        tuple[Name, ...], Field(description="in one of these it has to be surely better than both; none named: in any")
    ] = ()
    suites: dict[Name, float] = Field(
        default_factory=dict[str, float],
        description="{general: 0.1}: share of its items that may be lost, the whole interval",
    )
    formats: Annotated[tuple[Name, ...], Field(description="that have to be within their budget")] = ()
    rows: Rows = Rows()
    signed: Annotated[bool, Field(description="by a key of TUNELINE_TRUSTED_KEYS, or it is not promoted")] = False
    approval: Annotated[
        Literal["auto", "manual"], Field(description="manual: a person has to agree to what the gate lets pass")
    ] = "auto"


class TriggerParams(Section):
    """When rows that have landed are trained on without being asked."""

    rows: Annotated[Count, Field(description="new rows that are worth a training")] = 50
    wait_hours: Annotated[float, Field(ge=0, description="after which fewer are too")] = 72.0
    drift: Annotated[float | None, Field(ge=0, le=1, description="above which fewer are too; null: not looked at")] = (
        0.2
    )
    settle_minutes: Annotated[float, Field(ge=0, description="since the last arrival")] = 10.0
    quiet: Annotated[tuple[Span, ...], Field(description="hours in which no training begins, 08:00-18:30")] = ()
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"


class LimitsParams(Section):
    """How long things may take."""

    stage_hours: Annotated[float, Field(gt=0, description="after which a stage is ended")] = 24.0
    hours: dict[Step, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict[Step, float], description="of one step's stages: {train: 72.0}"
    )
    approval_hours: Annotated[float, Field(gt=0, description="after which nobody's answer is a no")] = 72.0

    def of(self, stage: str) -> float:
        """Hours that the stage, or door, may take: `evaluate@nf4` and `evaluate-base` have those of `evaluate`."""
        return next(
            (hours for step, hours in self.hours.items() if re.fullmatch(rf"{step}([@-].*)?", stage)), self.stage_hours
        )
