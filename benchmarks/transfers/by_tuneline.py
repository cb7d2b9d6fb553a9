"""The line's way: `Registry.publish` of a folder's files, or `Registry.pull` of the newest version; the registry is
`TUNELINE_REGISTRY`.

python benchmarks/transfers/by_tuneline.py publish|pull FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tasks.storage.registry import Registry


def publish(registry: Registry, folder: Path) -> dict[str, int]:
    """A new version each time: what stands there already is left to the blobs to find out."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    published = registry.publish("model", files, uuid.uuid4().hex, {}, datetime.now(UTC), "benchmark")
    return {"sent_bytes": published.uploaded_bytes, "bytes": published.version.size}


def pull(registry: Registry, folder: Path) -> dict[str, int]:
    files = registry.pull(registry.find("model"), None, folder)
    return {"bytes": sum(entry.size for entry in files.values())}


if __name__ == "__main__":
    action = {"publish": publish, "pull": pull}[sys.argv[1]]
    print(json.dumps(action(Registry.open(os.environ), Path(sys.argv[2]))))
