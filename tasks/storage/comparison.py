"""What lies between two versions: data, base, commit, params, metrics and files. Pure: two manifests in, the changes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from tasks.storage.model_version import Version

Change = tuple[JsonValue, JsonValue]
"""Before and after; None where there is no such value."""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "data": ("version", "rows", "digest"),
    "base": (),
    "git": (),
    "params": (),
    "metrics": (),
}
"""Sections of a version's record that are compared, and the keys that count there; all where none is named."""


@dataclass(frozen=True)
class Files:
    """Paths, and how many bytes the second version has more than the first."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """What differs, and nothing else. Law: a version compared with itself differs in nothing."""

    before: str
    after: str
    record: Mapping[str, Mapping[str, Change]]
    files: Files


def compare(before: Version, after: Version) -> Comparison:
    """`record` maps a section to dotted paths within it."""
    record = {section: _section(before, after, section) for section in SECTIONS}
    return Comparison(before.reference, after.reference, record, _files(before, after))


def _section(before: Version, after: Version, section: str) -> dict[str, Change]:
    old, new = (_counted(leaves(version.record.get(section)), SECTIONS[section]) for version in (before, after))
    paths = [*old, *(path for path in new if path not in old)]
    return {path: (old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)}


def _counted(values: dict[str, JsonValue], keys: tuple[str, ...]) -> dict[str, JsonValue]:
    return {path: value for path, value in values.items() if not keys or path in keys}


def leaves(value: JsonValue, path: str = "") -> dict[str, JsonValue]:
    """Every value that is no mapping, by its dotted path; a list is one value."""
    if not isinstance(value, dict):
        return {path: value}
    inner = {key: leaves(each, f"{path}.{key}".removeprefix(".")) for key, each in value.items()}
    return {place: leaf for found in inner.values() for place, leaf in found.items()}


def _files(before: Version, after: Version) -> Files:
    old, new = before.files, after.files
    return Files(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
        bytes=after.size - before.size,
    )
