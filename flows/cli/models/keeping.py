"""Keeping the registry whole and small: verify, pin, gc."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from tasks.core.errors import IntegrityError, ParamsError
from tasks.storage import checkout, garbage, verification
from tasks.storage.garbage import Plan
from tasks.storage.model_version import parse_reference
from tasks.storage.registry import Registry

LONGEST = 100_000


def verify(arguments: argparse.Namespace, registry: Registry) -> int:
    found = verification.verify(registry, *_chosen(arguments.reference, registry))
    if arguments.json:
        print(json.dumps({"ok": not found.faults, **asdict(found)}, indent=1))
    else:
        for fault in found.faults:
            print(f"{', '.join(fault.suffer)}: {fault.problem}")
        size = f"{found.versions} versions, {found.blobs} blobs, {found.bytes / 1e6:.1f} MB read and hashed"
        print(f"{size}: {f'faults: {len(found.faults)}' if found.faults else 'all whole'}")
    return IntegrityError.exit_code if found.faults else 0


def _chosen(text: str | None, registry: Registry) -> tuple[str | None, int | None]:
    if text is None:
        return None, None
    reference = parse_reference(text)
    if reference.alias:
        return reference.name, registry.find(text).number
    return reference.name, reference.number


def pin(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    who, now = checkout.user(), datetime.now(UTC)
    if arguments.release:
        registry.pins.release(version.name, version.number, who=who, why=arguments.why, now=now)
        changed, text = True, f"{version.reference} is pinned no longer"
    else:
        changed = registry.pins.pin(version, who=who, why=arguments.why, now=now)
        text = f"{version.reference} is pinned{'' if changed else ' already'}: garbage collection keeps it"
    if arguments.json:
        told = {"reference": version.reference, "pinned": not arguments.release, "changed": changed}
        print(json.dumps(told, indent=1))
    else:
        print(text)
    return 0


def gc(arguments: argparse.Namespace, registry: Registry) -> int:
    if not 0 <= arguments.grace <= LONGEST:
        raise ParamsError(f"--grace {arguments.grace}: give the hours, 0 to {LONGEST}, for which an unnamed blob stays")
    grace, now = timedelta(hours=arguments.grace), datetime.now(UTC)
    if arguments.delete:
        found = garbage.collect(registry, arguments.keep, grace, now, checkout.user())
    else:
        found = garbage.plan(registry, arguments.keep, grace, now)
    if arguments.json:
        print(json.dumps(_told(found, deleted=arguments.delete), indent=1))
        return 0
    for version in found.retired:
        print(f"{version.reference:32} {version.size / 1e6:8.1f} MB")
    for item in (*found.blobs, *found.leftovers):
        print(f"{item.key:32} {item.size / 1e6:8.1f} MB")
    print(f"removed: {found.words}" if arguments.delete else f"would go: {found.words}; --delete removes them")
    return 0


def _told(found: Plan, *, deleted: bool) -> dict[str, object]:
    return {
        "deleted": deleted, "bytes": found.size, "versions": [version.reference for version in found.retired],
        "blobs": [item.key for item in found.blobs], "leftovers": [item.key for item in found.leftovers],
    }  # fmt: skip
