"""What leaves the registry: pull."""

from __future__ import annotations

import argparse
import json

from flows.cli.models.looking import notes
from tasks.storage.registry import Registry


def pull(arguments: argparse.Namespace, registry: Registry) -> int:
    version = registry.find(arguments.reference)
    files = registry.pull(version, None if arguments.part == "all" else arguments.part, arguments.to)
    if arguments.json:
        print(json.dumps({"version": version.reference, "folder": str(arguments.to), "files": sorted(files)}, indent=1))
    else:
        print(f"{version.reference} {arguments.part}: {len(files)} files in {arguments.to}, every digest checked")
        if note := notes(version).get(arguments.part):
            print(f"{arguments.part} is {note}")
    return 0
