"""`tuneline data`: the corpus, version by version, and what becomes of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import events, layout, params
from tasks.core.errors import ParamsError

if TYPE_CHECKING:
    from tasks.storage.corpus import Corpus, DataVersion

COUNTS = ("seen", "accepted", "duplicate", "quarantined")


def main(arguments: argparse.Namespace) -> int:
    events.send_to(events.Terminal())
    return ACTIONS[arguments.action](arguments)


def _ingest(arguments: argparse.Namespace) -> int:
    from tasks.ingest import account, ingest

    done = ingest(params.load().data, source=_landing(arguments.source), workspace=Path.cwd())
    value: dict[str, Any] = {
        "version": done.version and done.version.name, "created": done.created, "left": dict(done.left),
        "rows": done.version.rows if done.version else 0,
        **account(done.version.arrivals if done.created and done.version else ()),
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(value, indent=1, ensure_ascii=False))
    elif done.version is None:
        print("no data version yet: nothing has landed")
    else:
        print(f"data/raw is {done.version.name}, {done.version.rows} rows{'' if done.created else ', as before'}")
    return 0


def _landing(given: str | None) -> str:
    found = given or os.environ.get("TUNELINE_LANDING")
    if not found:
        raise ParamsError("where do files land? Give a folder, a file or s3://BUCKET/PREFIX, or set TUNELINE_LANDING")
    return found


def _status(arguments: argparse.Namespace) -> int:
    from tasks.storage import checkout
    from tasks.storage.corpus import Corpus, fresh
    from tasks.storage.landing import place

    with checkout.connected(os.environ) as environ:
        corpus = Corpus.open(environ)
        versions = corpus.versions()
        value: dict[str, Any] = {
            "store": corpus.store.url, "workspace": checkout.current(Path.cwd()),
            "versions": [_brief(version) for version in versions],
        }  # fmt: skip
        source = arguments.source or os.environ.get("TUNELINE_LANDING")
        if source:
            where = place(source, environ)
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


def _show(arguments: argparse.Namespace) -> int:
    with _corpus() as corpus:
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


def _corpus() -> Any:
    """The corpus of this environment, open for the length of a block."""
    from contextlib import contextmanager

    from tasks.storage import checkout
    from tasks.storage.corpus import Corpus

    @contextmanager
    def opened() -> Any:
        with checkout.connected(os.environ) as environ:
            yield Corpus.open(environ)

    return opened()


def _diff(arguments: argparse.Namespace) -> int:
    from tasks.data.drift import drift
    from tasks.data.profile import Profile

    with _corpus() as corpus:
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
    from tasks.data import shards
    from tasks.storage import checkout
    from tasks.storage.versions import scratch

    with scratch(Path.cwd(), corpus.remote) as room:
        checkout.restore(room, version)
        return {row.content_digest: row.source for row in shards.read(room.raw)}


def _by_source(rows: Mapping[str, str], chosen: set[str]) -> dict[str, int]:
    return dict(sorted(Counter(rows[digest] for digest in chosen).items()))


def _drift(arguments: argparse.Namespace) -> int:
    """Exit code 1 where the drift exceeds the limit: a trigger rule for scripts."""
    from tasks.data.drift import drift
    from tasks.data.profile import Profile

    with _corpus() as corpus:
        versions = corpus.versions()
        reference = corpus.read(arguments.reference)
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


def _checkout(arguments: argparse.Namespace) -> int:
    from tasks.storage import checkout

    with _corpus() as corpus:
        version = corpus.read(arguments.version)
        checkout.bring(Path.cwd(), corpus, version)
    print(f"data/raw is {version.name}, {version.rows} rows, every digest checked")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    from tasks.data import selection
    from tasks.forget import forget_selected, matching

    chosen = selection.parse(arguments.where)
    if arguments.dry_run:
        ids = matching(chosen, Path.cwd())
        value: dict[str, Any] = {"where": str(chosen), "rows": len(ids), "ids": ids}
    else:
        version = forget_selected(params.load().data, chosen, Path.cwd())
        value = {
            "where": str(chosen),
            "rows": version.forgotten.rows if version.forgotten else 0,
            "version": version.name,
        }
    if arguments.json:
        print(json.dumps(value, indent=1, ensure_ascii=False))
    elif arguments.dry_run:
        print("\n".join([*value["ids"], f"{value['rows']} rows would be forgotten"]))
    else:
        print(f"{value['rows']} rows forgotten; data/raw is {value['version']}. Earlier versions keep them.")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Exit code 1 where a row is unfit, so that a producer can check a file before it lands."""
    from tasks.ingest import examine

    with tempfile.TemporaryFile() as refused:
        found = examine(params.load().data, arguments.file, refused)
        refused.seek(0)
        rows = [json.loads(line) for line in refused]
    value = {"file": str(arguments.file), **found.counts()}
    if arguments.json:
        print(json.dumps(value | {"quarantine": rows}, indent=1, ensure_ascii=False))
        return int(found.quarantined > 0)
    print("  ".join(f"{name} {value[name]}" for name in COUNTS))
    for name, count in found.formats.items():
        print(f"  format {name}: {count}")
    for row in rows:
        print(f"{arguments.file}:{row['line']}: {row['kind']}: {row['reason']}")
    return int(found.quarantined > 0)


def _preview(arguments: argparse.Namespace) -> int:
    from tasks.core import manifest
    from tasks.data import preview, shards
    from tasks.data.tokens import ChatTokenizer
    from tasks.storage.versions import Change, Pipeline

    pipeline = Pipeline(Path.cwd())
    if pipeline.change("fetch") is not Change.NONE:
        pipeline.reproduce("fetch")
    manifest.verify(layout.RAW)
    chosen = [row for row in shards.read(layout.RAW) if not arguments.id or row.id in arguments.id][: arguments.rows]
    if not chosen:
        raise ParamsError("no row of data/raw has such an id: tuneline data diff shows what is there")
    tokenizer = ChatTokenizer(layout.BASE)
    if arguments.json:
        print(json.dumps(preview.as_json(chosen, tokenizer), indent=1, ensure_ascii=False))
    else:
        print(preview.preview(chosen, tokenizer, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return 0


ACTIONS = {
    "ingest": _ingest, "status": _status, "show": _show, "diff": _diff, "drift": _drift, "checkout": _checkout,
    "forget": _forget, "check": _check, "preview": _preview,
}  # fmt: skip
