"""What leaves the registry: pull, materialize, export."""

from __future__ import annotations

import argparse
import json
import os

from flows.cli.models.looking import notes
from tasks.storage import bundle, materialization
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store


def pull(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    files = registry.pull(version, _part(arguments), arguments.to)
    if arguments.json:
        print(json.dumps({"version": version.reference, "folder": str(arguments.to), "files": sorted(files)}, indent=1))
    else:
        print(f"{version.reference} {arguments.part}: {len(files)} files in {arguments.to}, every digest checked")
        if note := notes(version).get(arguments.part):
            print(f"{arguments.part} is {note}")
    return 0


def materialize(arguments: argparse.Namespace, registry: Registry) -> int:
    version, target = _leaving(arguments, registry), Store.open(arguments.target, os.environ)
    done = materialization.materialize(registry.store, version, _part(arguments), target)
    if arguments.json:
        told = {"version": version.reference, "target": target.url, "copied": done.copied, "found": done.found}
        print(json.dumps(told, indent=1))
    else:
        print(
            f"{version.reference} {arguments.part}: {done.copied} files copied to {target.url}, {done.found} there before"
        )
    return 0


def export(arguments: argparse.Namespace, registry: Registry) -> int:
    version = _leaving(arguments, registry)
    size = bundle.export(registry.store, version, arguments.file)
    if arguments.json:
        print(json.dumps({"version": version.reference, "file": str(arguments.file), "bytes": size}, indent=1))
    else:
        print(f"{version.reference}: {len(version.files)} files in {arguments.file}, every digest checked")
    return 0


def _leaving(arguments: argparse.Namespace, registry: Registry) -> Version:
    """IntegrityError: no trusted key signed it, and some are asked for; a pull sees to that itself."""
    version = registry.find(arguments.reference)
    registry.signatures.require(version)
    return version


def _part(arguments: argparse.Namespace) -> str | None:
    return None if arguments.part == "all" else arguments.part
