"""`tuneline reproduce`: make a registered version again and compare."""

from __future__ import annotations

import argparse
import json
import sys

from flows.services import flushed, services
from tasks.core.errors import IntegrityError, StageFailed


def main(arguments: argparse.Namespace) -> int:
    print("starting the services ...", file=sys.stderr)
    with services(store=True, prefect=True), flushed():
        from flows.reproduce import DIFFERS, reproduce

        state = reproduce(arguments.reference, arguments.tolerance, return_state=True)
        if not state.is_completed():
            kind = IntegrityError if state.name == DIFFERS else StageFailed
            raise kind(state.message or "it could not be made again; the log says why")
        value = state.result()
    print(json.dumps(value, indent=1) if arguments.json else state.message)
    return 0
