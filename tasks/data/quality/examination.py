"""All rules that look at one row by itself."""

from __future__ import annotations

from tasks.core.sections import Quality
from tasks.data.quality import answers, language, pii
from tasks.data.quality.finding import Examined
from tasks.data.rows import Row


def examine(row: Row, params: Quality) -> Examined:
    """What is found in the row, and the row with personal data redacted where that is asked for.

    Laws: a row without findings comes back itself; what is redacted is not found again.
    """
    safe, personal = pii.examine(row, params.pii)
    found = [*personal, *language.examine(row, params.languages), *answers.examine(row, params.answers)]
    return Examined(safe, tuple(found))
