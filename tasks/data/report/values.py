"""Frozen values read from files, and what to say of a file that does not hold one."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError


class Value(BaseModel):
    """A file may say more than the report shows."""

    model_config = ConfigDict(frozen=True)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Figure = Annotated[float | None, AfterValidator(_finite)]
"""A measurement. One that overflowed is missing: JSON can't hold it and no table can rank it."""


def complaint(error: ValidationError) -> str:
    """The first complaint on one line: where, what, what was found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{f'{where}: ' if where else ''}{first['msg']} (found {str(first['input'])[:80]!r})"
