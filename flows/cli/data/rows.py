"""Commands that look at rows."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tasks.core import layout, manifest, params
from tasks.core.errors import ParamsError
from tasks.data import preview, shards
from tasks.data.tokens import ChatTokenizer
from tasks.ingest import examine
from tasks.storage.corpus import COUNTS
from tasks.storage.versions import Change, Pipeline


def check(arguments: argparse.Namespace) -> int:
    """Exit code 1 where a row is unfit, so that a producer can check a file before it lands."""
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


def previewed(arguments: argparse.Namespace) -> int:
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
