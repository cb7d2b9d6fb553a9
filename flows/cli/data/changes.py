"""Commands that make a version, or bring one here."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from flows.cli.data import store
from tasks import ingest as take_in
from tasks.core import params
from tasks.core.errors import ParamsError
from tasks.data import selection
from tasks.forget import forget_selected, matching
from tasks.storage import checkout


def ingest(arguments: argparse.Namespace) -> int:
    done = take_in.ingest(params.load().data, source=_landing(arguments.source), workspace=Path.cwd())
    value: dict[str, Any] = {
        "version": done.version and done.version.name, "created": done.created, "left": dict(done.left),
        "rows": done.version.rows if done.version else 0,
        **take_in.account(done.version.arrivals if done.created and done.version else ()),
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


def bring(arguments: argparse.Namespace) -> int:
    with store.corpus() as corpus:
        version = corpus.read(arguments.version)
        checkout.bring(Path.cwd(), corpus, version)
    print(f"data/raw is {version.name}, {version.rows} rows, every digest checked")
    return 0


def forget(arguments: argparse.Namespace) -> int:
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
