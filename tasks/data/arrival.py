"""Landing files, row by row: what is accepted, what is a duplicate, what is refused and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tasks.core.errors import DataError
from tasks.core.sections import DataParams
from tasks.data import formats, landing, parallel
from tasks.data.landing import Found, Malformed
from tasks.data.parallel import Mapped
from tasks.data.profile import Accumulator, Profile
from tasks.data.rows import Row
from tasks.data.seen import Seen

PREFERENCE: formats.Kind = "preference row"
"""Rows of this kind are well made, only not for any method yet: they say nothing against their file."""
FORGOTTEN = "forgotten"
BATCH = 1_000
"""Rows converted together."""
MANY_BYTES = 16 << 20
"""Landing bytes from which a second process saves more than its start costs."""
EXCERPT = 2_000
"""Characters of a refused row that its report keeps."""


@dataclass(frozen=True)
class Refused:
    """A row that is none of the line's, by its place in the file."""

    place: int
    kind: str
    reason: str
    text: str


@dataclass(frozen=True)
class Fit:
    """A row as its line, with the digest of its content."""

    place: int
    digest: str
    line: bytes


@dataclass(frozen=True)
class Converted:
    """What became of a batch, in order; `profile` is that of all its fit rows."""

    outcomes: list[Fit | Refused]
    formats: Counter[str]
    profile: Profile


@dataclass
class Account:
    """Counts of one file's rows. Law: `accepted + duplicate + quarantined == seen`."""

    seen: int = 0
    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0
    formats: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    profile: Profile = field(default_factory=Profile)
    fresh: Seen = field(default_factory=Seen)

    @property
    def unfit(self) -> int:
        return self.quarantined - self.reasons[PREFERENCE]

    def refuse(self, kind: str) -> None:
        self.quarantined += 1
        self.reasons[kind] += 1

    def counts(self) -> dict[str, Any]:
        """As a plain value."""
        return {
            "seen": self.seen, "accepted": self.accepted, "duplicate": self.duplicate, "quarantined": self.quarantined,
            "formats": dict(sorted(self.formats.items())), "reasons": dict(sorted(self.reasons.items())),
        }  # fmt: skip


_params: list[DataParams] = []


def begin(params: DataParams) -> None:
    """Make this process a converter."""
    _params[:] = [params]


def convert(batch: tuple[str, tuple[Found | Malformed, ...]]) -> Converted:
    """The rows of a source's batch, each fit or refused."""
    source, items = batch
    (params,) = _params
    outcomes, names, profile = list[Fit | Refused](), Counter[str](), Accumulator()
    for item in items:
        if isinstance(item, Malformed):
            outcomes.append(Refused(item.place, "malformed", item.reason, item.text))
            continue
        try:
            name = formats.recognise(item.value, params) if params.format == "auto" else params.format
            row = formats.to_row(item.value, source=source, params=params)
        except formats.Unfit as error:
            text = json.dumps(item.value, ensure_ascii=False)[:EXCERPT]
            outcomes.append(Refused(item.place, error.kind, str(error), text))
            continue
        names[name] += 1
        profile.add(row)
        outcomes.append(Fit(item.place, row.content_digest, row.to_line()))
    return Converted(outcomes, names, profile.profile())


@dataclass(frozen=True)
class Reader:
    """Takes landing files in beside what a corpus holds: `seen` and `forgotten` are digests of rows."""

    params: DataParams
    seen: Seen
    forgotten: frozenset[str]
    mapped: Mapped[Any, Any]

    def read(self, path: Path, key: str, source: str, accepted: BinaryIO, refused: BinaryIO) -> Account:
        """Write the file's new rows, and its refused ones as a readable report; nothing else is changed.

        DataError: the file can't be read to its end, or most of it is unfit: then what was written does not count.
        """
        account = Account()
        items = landing.read(path, key, limit=self.params.max_row_bytes)
        for converted in self.mapped(convert, ((source, batch) for batch in _batches(items))):
            self._take(converted, key, account, accepted, refused)
        if account.unfit > self.params.max_quarantined * account.seen:
            kinds = ", ".join(f"{kind} {count}" for kind, count in account.reasons.most_common(3))
            raise DataError(
                f"{account.unfit} of {account.seen} rows are unfit ({kinds}), more than data.max_quarantined="
                f"{self.params.max_quarantined}: see `tuneline data check`, mend the file or raise the limit"
            )
        return account

    def _take(self, converted: Converted, key: str, account: Account, accepted: BinaryIO, refused: BinaryIO) -> None:
        account.formats += converted.formats
        lines, out = list[bytes](), list[bytes]()
        for outcome in converted.outcomes:
            account.seen += 1
            if isinstance(outcome, Refused):
                account.refuse(outcome.kind)
                refused.write(_report(outcome, key))
            elif outcome.digest in self.forgotten:
                account.refuse(FORGOTTEN)
                refused.write(
                    _report(Refused(outcome.place, FORGOTTEN, "taken out by `tuneline data forget`", ""), key)
                )
                out.append(outcome.line)
            elif outcome.digest in self.seen or not account.fresh.add(outcome.digest):
                account.duplicate += 1
                out.append(outcome.line)
            else:
                account.accepted += 1
                lines.append(outcome.line)
        accepted.writelines(lines)
        account.profile = account.profile.merge(_without(converted.profile, out, lines))


def _batches(items: Iterator[Found | Malformed]) -> Iterator[tuple[Found | Malformed, ...]]:
    while batch := tuple(islice(items, BATCH)):
        yield batch


def _without(profile: Profile, out: Sequence[bytes], rest: Sequence[bytes]) -> Profile:
    """The profile of `rest`, given that of all; most often the rows that are out are the fewer ones to read again."""
    if not out:
        return profile
    if len(out) < len(rest) and profile.exact:
        return profile.without(_profile(out))
    return _profile(rest)


def _profile(lines: Iterable[bytes]) -> Profile:
    profile = Accumulator()
    for line in lines:
        profile.add(Row.from_line(line))
    return profile.profile()


def _report(refused: Refused, key: str) -> bytes:
    line: Mapping[str, Any] = {
        "file": key, "line": refused.place, "kind": refused.kind, "reason": refused.reason, "text": refused.text,
    }  # fmt: skip
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def reader(params: DataParams, seen: Seen, forgotten: frozenset[str], size: int) -> Generator[Reader]:
    """A reader for so many bytes of landing files: with several processes where that pays."""
    count = parallel.workers() if size >= MANY_BYTES else 1
    with parallel.processes(count, begin, params) as mapped:
        yield Reader(params, seen, forgotten, mapped)
