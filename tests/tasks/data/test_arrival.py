"""Every row of a file is accepted, a duplicate or refused, the same with one process and with two."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import DataError
from tasks.core.sections import DataParams
from tasks.data import arrival
from tasks.data.arrival import Account
from tasks.data.profile import profile
from tasks.data.rows import Row
from tasks.data.seen import Seen


def read(
    file: Path, seen: Seen, forgotten: frozenset[str] = frozenset(), **params: Any
) -> tuple[Account, bytes, bytes]:
    accepted, refused = io.BytesIO(), io.BytesIO()
    with arrival.reader(DataParams.model_validate(params), seen, forgotten, file.stat().st_size) as reader:
        account = reader.read(file, file.name, "web", accepted, refused)
    return account, accepted.getvalue(), refused.getvalue()


def mixture(file: Path, rows: int) -> Path:
    draw = random.Random(11)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            number = draw.randrange(rows)
            good = {"instruction": f"What is {number}?", "output": f"It is {number}.", "tags": [f"t{number % 7}"]}
            bad: list[Any] = ["{not json", json.dumps({"what": number}), json.dumps({"chosen": "a", "rejected": "b"})]
            out.write(f"{draw.choices([json.dumps(good), *bad], [20, 1, 1, 1])[0]}\n")
    return file


@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_the_account_adds_up_however_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    file = mixture(tmp_path / "day.jsonl", rows)
    one = read(file, Seen())
    monkeypatch.setattr(arrival, "MANY_BYTES", 0)
    monkeypatch.setenv("TUNELINE_THREADS", "2")
    two = read(file, Seen())
    assert [one[0].counts(), *one[1:]] == [two[0].counts(), *two[1:]]
    account, accepted, refused = two
    assert account.seen == rows == account.accepted + account.duplicate + account.quarantined
    assert account.accepted == accepted.count(b"\n") == len(account.fresh)
    assert account.quarantined == refused.count(b"\n") == sum(account.reasons.values())
    kept = [Row.from_line(line) for line in accepted.splitlines()]
    assert account.profile == one[0].profile == profile(kept)
    assert {row.source for row in kept} <= {"web"}


def test_what_the_corpus_has_or_has_forgotten_stays_out(tmp_path: Path) -> None:
    file = mixture(tmp_path / "day.jsonl", 300)
    _, accepted, _ = read(file, Seen())
    digests = [Row.from_line(line).content_digest for line in accepted.splitlines()]
    seen = Seen()
    for digest in digests[:50]:
        seen.add(digest)
    account, again, refused = read(file, seen, frozenset(digests[50:60]))
    assert [Row.from_line(line).content_digest for line in again.splitlines()] == digests[60:]
    assert account.reasons["forgotten"] >= 10 and b"taken out" in refused
    assert account.profile == profile(Row.from_line(line) for line in again.splitlines())
    assert len(seen) == 50, "the corpus's own digests are not touched"


def test_a_file_that_is_mostly_unfit_is_refused_but_preference_rows_say_nothing_against_it(tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl"
    file.write_text("{}\n{}\n" + json.dumps({"instruction": "a", "output": "b"}) + "\n")
    with pytest.raises(DataError, match=r"2 of 3 rows are unfit \(unknown format 2\)"):
        read(file, Seen())
    file.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    assert read(file, Seen())[0].counts()["reasons"] == {"preference row": 1}
