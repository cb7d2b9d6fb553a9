"""`tuneline data`: the corpus, version by version, and what becomes of it."""

from __future__ import annotations

import argparse

from flows.cli.data import changes, rows, versions
from tasks.core import events

ACTIONS = {
    "ingest": changes.ingest, "checkout": changes.bring, "forget": changes.forget, "status": versions.status,
    "show": versions.show, "diff": versions.diff, "drift": versions.drifted, "check": rows.check,
    "preview": rows.previewed,
}  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    events.send_to(events.Terminal())
    return ACTIONS[arguments.action](arguments)
