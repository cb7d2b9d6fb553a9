"""Laws of a version's manifest and of the names by which one asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core.errors import IntegrityError, ParamsError
from tasks.core.manifest import FileEntry
from tasks.storage.audit import LogEntry
from tasks.storage.model_version import Reference, Version, check_name, draft, parse, parse_reference

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
numbers = st.integers(1, 10**9 - 1)
entries = st.builds(FileEntry, sha256=st.binary(min_size=32, max_size=32).map(bytes.hex), size=st.integers(0, 2**50))
paths = st.lists(st.from_regex(r"[\w-][\w .-]{0,8}", fullmatch=True), min_size=1, max_size=3).map("/".join)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
moments = st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))]))


def prefix_free(files: Mapping[str, FileEntry]) -> bool:
    return not any(other.startswith(f"{name}/") for name in files for other in files)


folders = st.dictionaries(paths, entries, min_size=1, max_size=4).filter(prefix_free)
records = st.dictionaries(st.text(), jsons)


@given(names, folders, records, moments)
def test_a_version_reads_back(
    name: str, files: dict[str, FileEntry], record: dict[str, Any], created: datetime
) -> None:
    version = draft(name, files, "work", record, created)
    assert parse(Version, version.to_bytes(), "here") == version
    assert (version.created, version.files, version.record) == (created, files, record)
    assert parse(Version, version.to_bytes(), "here").to_bytes() == version.to_bytes()


@given(moments, names, numbers)
def test_a_log_entry_reads_back(at: datetime, who: str, version: int) -> None:
    entry = LogEntry(at=at, action="publish", who=who, version=version)
    assert parse(LogEntry, entry.to_bytes(), "here") == entry


@given(st.binary(max_size=200))
@example(b"{}")
@example(b'{"name":"m","number":1,"identity":"i","created":"2026-01-02T03:04:05","files":{},"record":{}}')
def test_other_bytes_are_no_version(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="^here is damaged: "):
        parse(Version, data, "here")


@given(names, st.none() | numbers)
def test_a_reference_reads_back(name: str, number: int | None) -> None:
    assert check_name(name) == name
    assert parse_reference(str(Reference(name, number))) == Reference(name, number)


@given(st.text(max_size=30) | st.from_regex(r"[a-z0-9._-]{0,4}@?v?[0-9]{0,12}\n?", fullmatch=True))
@example("m@v01")
@example("m@v1\n")
@example("m@v٣")
@example("m@")
def test_any_other_reference_is_one_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ParamsError as error:
        assert repr(text.partition("@")[0])[1:-1] in str(error)
    else:
        assert str(reference) == text
