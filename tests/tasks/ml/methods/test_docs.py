"""docs/methods.md lists every method, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.ml import methods

TEXT = (Path(__file__).parents[4] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_table_has_every_method_once() -> None:
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == methods.known()
    assert len(listed) > 40
