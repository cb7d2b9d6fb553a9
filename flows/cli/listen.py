"""`tuneline listen`: what a bucket tells its queue, told to the Prefect server; until Ctrl-C, or once."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from flows import listening
from flows.services import services
from tasks.core import layout
from tasks.core.errors import ParamsError, ServiceError
from tasks.storage.notices import Landed
from tasks.storage.queue import Look, Queue

SHOWN = 5


def main(arguments: argparse.Namespace) -> int:
    if arguments.json and not arguments.once:
        raise ParamsError("--json prints one value at the end: give --once, too")
    source = listening.queue_of(os.environ)
    if source is None:
        raise ParamsError("which queue? Set TUNELINE_QUEUE to its URL, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
    _refuse_nobody()
    with services(prefect=True):
        return _once(source, as_json=arguments.json) if arguments.once else _always(source)


def _refuse_nobody() -> None:
    """A server that is started for this command would stop with it, before anybody heard."""
    if "PREFECT_API_URL" not in os.environ and not (Path.cwd() / layout.HOME / "prefect.json").exists():
        raise ServiceError(
            "no Prefect server to tell: set PREFECT_API_URL, or start `tuneline up` here, which reads the queue itself"
        )


def _once(source: Queue, *, as_json: bool) -> int:
    from flows import arrivals

    source.check()
    look = listening.hand_on(source, arrivals.announce, listening.say)
    if as_json:
        print(json.dumps(_value(source, look), indent=1, ensure_ascii=False))
    else:
        print(_words(look.files) if look.files else "nothing has landed")
    return 0


def _value(source: Queue, look: Look) -> dict[str, object]:
    return {
        "queue": source.url, "announced": bool(look.files), "count": len(look.files),
        "files": [{"bucket": file.bucket, "key": file.key} for file in look.files], "foreign": list(look.foreign),
    }  # fmt: skip


def _always(source: Queue) -> int:
    from flows import arrivals

    def tell(files: Sequence[Landed]) -> None:
        arrivals.announce(files)
        print(_words(files), flush=True)

    print(f"queue: {source.url}\nCtrl-C stops.", flush=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        listening.listen(source, tell, listening.say, threading.Event())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def _interrupt(*_: object) -> None:
    """Within a request, too: what it had read and not deleted comes again."""
    raise KeyboardInterrupt


def _words(files: Sequence[Landed]) -> str:
    keys = ", ".join(file.key for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"announced {len(files)} files: {keys}{more}"
