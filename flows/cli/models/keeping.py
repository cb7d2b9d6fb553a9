"""Keeping the registry whole and small: verify."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tasks.core.errors import IntegrityError
from tasks.storage import verification
from tasks.storage.model_version import parse_reference
from tasks.storage.registry import Registry


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
