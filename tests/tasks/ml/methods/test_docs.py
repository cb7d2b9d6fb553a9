"""docs/methods.md lists every method, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.ml import methods

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_table_has_every_method_once() -> None:
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == methods.known()
    assert len(listed) > 40


def test_every_row_has_its_tests_and_its_cost() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9_]+)` \|.*\| \[.+\]\(\.\./(tests/\S+)\) \| (.*) \| (.*) \|$", TEXT, flags=re.MULTILINE
    )
    assert sorted(name for name, *_ in rows) == methods.known()
    for name, file, cost, trains in rows:
        assert (ROOT / file).is_file(), name
        assert (re.fullmatch(r"\d+\.\d\d", cost) and re.fullmatch(r"[\d,]+", trains)) or name == "bitfit", name
