"""What a rule says about a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.data.rows import Row

Action = Literal["report", "drop", "redact"]


@dataclass(frozen=True)
class Finding:
    """`rule` is dotted like the params (`answers.loops`, `pii.email`); `detail` holds no personal data."""

    rule: str
    action: Action
    detail: str


@dataclass(frozen=True)
class Examined:
    """A row, changed by redaction only, and what was found in it before that."""

    row: Row
    findings: tuple[Finding, ...]

    @property
    def dropped(self) -> bool:
        return any(finding.action == "drop" for finding in self.findings)
