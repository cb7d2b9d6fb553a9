"""`tuneline models`: what the registry holds."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from flows.services import services
from tasks.core import events
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry


def main(arguments: argparse.Namespace) -> int:
    events.send_to(events.Terminal())
    with services(store=True):
        chosen = Registry.open(os.environ)
        if "TUNELINE_REGISTRY" not in os.environ:
            chosen.store.ensure_bucket()  # the embedded store may never have been used; another's bucket is not ours to make
        return {"list": _list, "show": _show, "pull": _pull}[arguments.action](arguments, chosen)


def _list(arguments: argparse.Namespace, registry: Registry) -> int:
    names = [arguments.name] if arguments.name else registry.names()
    versions = [version for name in names for version in registry.versions(name)]
    if arguments.json:
        print(json.dumps([_brief(registry, version) for version in versions], indent=1))
        return 0
    if not versions:
        print("the registry is empty: `tuneline run` registers the first version")
    for version in versions:
        when = version.created.strftime("%Y-%m-%d %H:%M")
        print(f"{version.reference:32} {when}  {version.size / 1e6:8.1f} MB  {_headline(version)}")
    return 0


def _show(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    if arguments.json:
        print(json.dumps({**_brief(registry, version), "version": version.model_dump(mode="json")}, indent=1))
        return 0
    record: dict[str, Any] = version.record
    print(f"{version.reference}  {registry.uri(version)}")
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
    notes = _notes(version)
    for part in version.parts:
        size = sum(entry.size for entry in version.select(part).values())
        print(f"  {part:12} {size / 1e6:8.1f} MB  {notes.get(part, '')}".rstrip())
    for part in sorted(notes.keys() - set(version.parts)):  # not made, or refused
        print(f"  {part:12} {'-':>8}     {notes[part]}")
    return 0


def _pull(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    files = registry.pull(version, None if arguments.part == "all" else arguments.part, arguments.to)
    if arguments.json:
        print(json.dumps({"version": version.reference, "folder": str(arguments.to), "files": sorted(files)}, indent=1))
    else:
        print(f"{version.reference} {arguments.part}: {len(files)} files in {arguments.to}, every digest checked")
        if note := _notes(version).get(arguments.part):
            print(f"{arguments.part} is {note}")
    return 0


def _notes(version: Version) -> dict[str, str]:
    """What there is to know of its parts; versions of earlier releases say nothing of them."""
    record: dict[str, Any] = version.record
    return record.get("notes", {})


def _brief(registry: Registry, version: Version) -> dict[str, Any]:
    return {
        "reference": version.reference, "uri": registry.uri(version), "created": version.created.isoformat(),
        "size": version.size, "parts": list(version.parts), "metrics": version.record.get("metrics", {}),
    }  # fmt: skip


def _headline(version: Version) -> str:
    """The leading metric, of every target: `exact_match base 0.00 merged 0.51 nf4 0.44`."""
    record: dict[str, Any] = version.record
    name = record["params"]["evaluate"]["metrics"][0]
    metrics: dict[str, dict[str, float]] = record["metrics"]
    return " ".join([name, *(f"{target} {values[name]:.2f}" for target, values in metrics.items() if name in values)])
