"""Commands that look at versions."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.cli.data import store
from tasks.core.errors import ParamsError
from tasks.data import shards
from tasks.data.drift import drift
from tasks.data.profile import Profile
from tasks.storage import checkout
from tasks.storage.corpus import COUNTS, Corpus, DataVersion, fresh
from tasks.storage.landing import place
from tasks.storage.registry import Registry
from tasks.storage.versions import scratch


def status(arguments: argparse.Namespace) -> int:
    with store.corpus() as corpus:
        versions = corpus.versions()
        value: dict[str, Any] = {
            "store": corpus.store.url, "workspace": checkout.current(Path.cwd()),
            "versions": [_brief(version) for version in versions],
        }  # fmt: skip
        source = arguments.source or os.environ.get("TUNELINE_LANDING")
        if source:
            where = place(source, os.environ)
            waiting = fresh(list(where.files()), where.name, versions)
            value |= {"landing": where.name, "waiting": [file.key for file in waiting]}
    if arguments.json:
        print(json.dumps(value, indent=1))
        return 0
    for version in versions:
        mark = "*" if version.name == value["workspace"] else " "
        print(f"{mark} {_line(version)}")
    if not versions:
        print("no data version yet: tuneline data ingest LANDING makes the first")
    elif value["workspace"] != versions[-1].name:
        print(f"data/raw is {value['workspace'] or 'not there'}: tuneline data checkout {versions[-1].name}")
    if source:
        print(
            f"{len(value['waiting'])} files wait in {value['landing']}: {', '.join(value['waiting'][:5])}".rstrip(": ")
        )
    return 0


def _brief(version: DataVersion) -> dict[str, Any]:
    return {
        "version": version.name, "created": version.created.isoformat(), "action": version.action,
        "rows": version.rows, "data": version.data, **{name: version.total(name) for name in COUNTS},
        "forgotten": version.forgotten.rows if version.forgotten else 0,
    }  # fmt: skip


def _line(version: DataVersion) -> str:
    when = version.created.strftime("%Y-%m-%d %H:%M")
    if version.forgotten:
        return f"{version.name:5} {when}  {version.rows:9} rows  forgot {version.forgotten.rows} where {version.forgotten.where}"
    counts = "  ".join(f"{name} {version.total(name)}" for name in COUNTS)
    return f"{version.name:5} {when}  {version.rows:9} rows  {counts}"


def show(arguments: argparse.Namespace) -> int:
    with store.corpus() as corpus:
        version = corpus.read(arguments.version)
        refused = corpus.report(version.quarantine) if version.quarantine else b""
    if arguments.quarantine:
        sys.stdout.buffer.write(refused)
        sys.stdout.flush()
        return 0
    if arguments.json:
        print(json.dumps(version.model_dump(mode="json", exclude={"profile", "added"}), indent=1, ensure_ascii=False))
        return 0
    print(_line(version))
    print(f"parent    {f'v{version.parent}' if version.parent else 'none'}")
    print(f"data      {version.data}")
    print(f"by        {version.who}")
    for arrival in version.arrivals:
        formats = ", ".join(f"{name} {count}" for name, count in arrival.formats.items())
        counts = "  ".join(f"{name} {getattr(arrival, name)}" for name in COUNTS)
        print(f"arrival   {arrival.key}  {counts}  {formats}")
        for reason, count in arrival.reasons.items():
            print(f"            {reason}: {count}")
    if version.quarantine:
        print(f"quarantine: tuneline data show {version.name} --quarantine")
    return 0


def diff(arguments: argparse.Namespace) -> int:
    with store.corpus() as corpus:
        old, new = corpus.read(arguments.old), corpus.read(arguments.new)
        left, right = _digests(corpus, old), _digests(corpus, new)
    added, removed = right.keys() - left.keys(), left.keys() - right.keys()
    moved = drift(Profile.model_validate(new.profile), Profile.model_validate(old.profile))
    value: dict[str, Any] = {
        "old": old.name, "new": new.name, "added": len(added), "removed": len(removed),
        "unchanged": len(left.keys() & right.keys()),
        "added_by_source": _by_source(right, added), "removed_by_source": _by_source(left, removed),
        "drift": moved.model_dump(mode="json"),
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(value, indent=1, ensure_ascii=False))
        return 0
    print(f"{old.name} -> {new.name}: {len(added)} rows added, {len(removed)} removed, {value['unchanged']} unchanged")
    for word in ("added", "removed"):
        for source, count in value[f"{word}_by_source"].items():
            print(f"  {word:8} {source or '(no source)'}: {count}")
    print(moved.as_text())
    return 0


def _digests(corpus: Corpus, version: DataVersion) -> dict[str, str]:
    """Digest -> source of every row of a version."""
    with scratch(Path.cwd(), corpus.remote) as room:
        checkout.restore(room, version)
        return {row.content_digest: row.source for row in shards.read(room.raw)}


def _by_source(rows: Mapping[str, str], chosen: set[str]) -> dict[str, int]:
    return dict(sorted(Counter(rows[digest] for digest in chosen).items()))


def drifted(arguments: argparse.Namespace) -> int:
    """Exit code 1 where the drift exceeds the limit: a trigger rule for scripts."""
    with store.corpus() as corpus:
        versions = corpus.versions()
        reference = corpus.read(_data_of(arguments.reference))
        newer = [version for version in versions if version.number > reference.number and version.added]
    new = Profile()
    for version in newer:
        new = new.merge(Profile.model_validate(version.added))
    found = drift(new, Profile.model_validate(reference.profile))
    exceeded = found.exceeds(arguments.limit)
    if arguments.json:
        value = {"reference": reference.name, "rows": new.rows, "limit": arguments.limit, "exceeded": exceeded}
        print(json.dumps(value | {"drift": found.model_dump(mode="json")}, indent=1))
    else:
        print(f"{new.rows} rows arrived after {reference.name}")
        print(found.as_text())
        print(f"{'more' if exceeded else 'not more'} than the limit {arguments.limit}")
    return int(exceeded)


def _data_of(reference: str) -> str:
    """The data version that is meant: by its own name, or by a model that was trained on it."""
    if reference == "latest" or re.fullmatch(r"v\d+", reference):
        return reference
    version = Registry.open(os.environ).find(reference)
    data: Any = version.record["data"]
    if not data.get("version"):
        raise ParamsError(
            f"{version.reference} does not say which data version it was trained on: name one, for instance v1"
        )
    return str(data["version"])
