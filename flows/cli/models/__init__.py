"""`tuneline models`: the registry."""

from __future__ import annotations

import argparse
import os

from flows.cli.models import judging, keeping, looking, moving, signing, taking
from flows.services import services
from tasks.core import events
from tasks.storage.registry import Registry

ACTIONS = {
    "list": looking.listing, "show": looking.show, "log": looking.log, "pull": taking.pull,
    "judge": judging.judge, "promote": moving.promote, "rollback": moving.rollback,
    "verify": keeping.verify, "pin": keeping.pin, "gc": keeping.gc, "diff": looking.diff,
    "materialize": taking.materialize, "export": taking.export,
    "sign": signing.sign, "signature": signing.signature,
}  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    events.send_to(events.Terminal())
    if arguments.action == "keygen":
        return signing.keygen(arguments)
    embedded = "TUNELINE_REGISTRY" not in os.environ
    with services(store=True):
        registry = Registry.open(os.environ)
        if embedded:
            registry.store.ensure_bucket()  # the embedded store may never have been used; another's bucket is not ours to make
        return ACTIONS[arguments.action](arguments, registry)
