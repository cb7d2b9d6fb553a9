"""What the registry holds: list, show, log, diff."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import JsonValue

from tasks.storage import comparison
from tasks.storage.audit import LogEntry
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.signatures import Signature


def listing(arguments: argparse.Namespace, registry: Registry) -> int:
    models = [arguments.name] if arguments.name else registry.names()
    versions = [version for name in models for version in registry.versions(name)]
    kept = {reference: value for name in models for reference, value in keeping(registry, name).items()}
    if arguments.json:
        print(json.dumps([_brief(registry, version, kept) for version in versions], indent=1))
        return 0
    if not versions:
        print("the registry is empty: `tuneline run` registers the first version")
    for version in versions:
        when = version.created.strftime("%Y-%m-%d %H:%M")
        words = f"  [{kept[version.reference]}]" if version.reference in kept else ""
        print(f"{version.reference:32} {when}  {version.size / 1e6:8.1f} MB  {_headline(version)}{words}")
    return 0


@dataclass(frozen=True)
class Kept:
    """What keeps a version."""

    aliases: tuple[str, ...] = ()
    pinned: bool = False

    def __str__(self) -> str:
        return ", ".join((*self.aliases, *(["pinned"] if self.pinned else [])))


def keeping(registry: Registry, name: str) -> dict[str, Kept]:
    """What keeps each version of a model, by the version's reference; versions that nothing keeps are left out."""
    aliases, pinned = registry.aliases.of(name), registry.pins.numbers(name)
    return {
        f"{name}@v{number}": Kept(tuple(a.alias for a in aliases if a.version == number), number in pinned)
        for number in {*pinned, *(alias.version for alias in aliases)}
    }


def show(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    kept = keeping(registry, version.name)
    if arguments.json:
        signed = [asdict(signature) for signature in registry.signatures.of(version)]
        told = {**_brief(registry, version, kept), "signatures": signed, "version": version.model_dump(mode="json")}
        print(json.dumps(told, indent=1))
        return 0
    record: dict[str, Any] = version.record
    print(f"{version.reference}  {registry.uri(version)}")
    if version.reference in kept:
        print(f"is        {kept[version.reference]}")
    for signature in registry.signatures.of(version):
        print(f"signed    {signature.key_id}{_standing(signature)}")
    print(f"created   {version.created.isoformat(timespec='seconds')}")
    print(f"data      {record['data']['digest'][:16]}  {record['data']['rows']} rows")
    print(f"base      {record['base']['digest'][:16]}  {record['base']['ref']}")
    if continued := record["base"].get("continues"):
        print(
            f"continues {continued['reference']}, {continued['keep']}; it knew the rows up to data v{continued['data']}"
        )
    print(f"git       {record['git']['commit']}{' with uncommitted changes' if record['git']['changes'] else ''}")
    print(f"method    {record['params']['train']['method']}, rank {record['params']['train']['rank']}")
    print("results")
    for target, values in record["metrics"].items():
        print(f"  {target:12} " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
    print("parts")
    known = notes(version)
    for part in version.parts:
        size = sum(entry.size for entry in version.select(part).values())
        print(f"  {part:12} {size / 1e6:8.1f} MB  {known.get(part, '')}".rstrip())
    for part in sorted(known.keys() - set(version.parts)):  # not made, or refused
        print(f"  {part:12} {'-':>8}     {known[part]}")
    return 0


def _standing(signature: Signature) -> str:
    if signature.problem:
        return f", which counts for nothing: {signature.problem}"
    return "" if signature.trusted is None else ", a trusted key" if signature.trusted else ", no trusted key"


def log(arguments: argparse.Namespace, registry: Registry) -> int:
    entries = registry.log(arguments.name)
    if arguments.json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))
        return 0
    for entry in entries:
        when = entry.at.strftime("%Y-%m-%d %H:%M:%S")
        print("  ".join([when, f"{entry.who:12} {entry.action:9} v{entry.version:<4}", *_about(entry)]).rstrip())
    return 0


def _about(entry: LogEntry) -> list[str]:
    before = f" from v{entry.previous}" if entry.previous else ""
    move = [f"{entry.alias} #{entry.generation}{before}"] if entry.alias else []
    verdict = [f"verdict {entry.verdict[:16]}"] if entry.verdict else []
    return [*move, *([entry.why] if entry.why else []), *verdict]


def diff(arguments: argparse.Namespace, registry: Registry) -> int:
    found = comparison.compare(registry.find(arguments.before), registry.find(arguments.after))
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(f"{found.before} -> {found.after}")
    for section, changes in found.record.items():
        for path, (before, after) in changes.items():
            print(f"{f'{section}.{path}':40} {_shown(before)} -> {_shown(after)}{_difference(before, after)}")
    for sign, paths in (("+", found.files.added), ("-", found.files.removed), ("*", found.files.changed)):
        for path in paths:
            print(f"{sign} {path}")
    print(f"{found.files.bytes:+} bytes")
    return 0


def _shown(value: JsonValue) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _difference(before: JsonValue, after: JsonValue) -> str:
    numbers = [value for value in (before, after) if isinstance(value, int | float) and not isinstance(value, bool)]
    return f"  ({numbers[1] - numbers[0]:+.4g})" if len(numbers) == 2 else ""


def notes(version: Version) -> dict[str, str]:
    """What there is to know of its parts; versions of earlier releases say nothing of them."""
    record: dict[str, Any] = version.record
    return record.get("notes", {})


def _brief(registry: Registry, version: Version, kept: dict[str, Kept]) -> dict[str, Any]:
    keeps = kept.get(version.reference, Kept())
    return {
        "reference": version.reference, "uri": registry.uri(version), "created": version.created.isoformat(),
        "size": version.size, "parts": list(version.parts), "metrics": version.record.get("metrics", {}),
        "aliases": list(keeps.aliases), "pinned": keeps.pinned,
    }  # fmt: skip


def _headline(version: Version) -> str:
    """The leading metric, of every target: `exact_match base 0.00 merged 0.51 nf4 0.44`."""
    record: dict[str, Any] = version.record
    name = record["params"]["evaluate"]["metrics"][0]
    metrics: dict[str, dict[str, float]] = record["metrics"]
    return " ".join([name, *(f"{target} {values[name]:.2f}" for target, values in metrics.items() if name in values)])
