"""Continual learning at the start of a run: the version to go on from becomes a number, and has something to learn."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.core.errors import DataError
from tasks.core.params import Params
from tasks.storage import checkout, continuing
from tasks.storage.registry import Registry


def pin(chosen: Params, root: Path, data: str | None = None) -> Params:
    """The same params with `fetch.continue_from` as NAME@vN, so that every stage after this is reproducible.

    data: the version that will be trained on, if another than the one that lies in `root`.
    ParamsError: no such version. DataError: it was trained on all rows of that.
    """
    if chosen.fetch.continue_from is None:
        return chosen
    version = Registry.open(os.environ).find(chosen.fetch.continue_from)
    learned, here = continuing.learned(version), data or checkout.current(root)
    if here is not None and int(here.removeprefix("v")) <= learned:
        raise DataError(
            f"fetch.continue_from: {version.reference} has learned data v{learned}, and here lies {here}: nothing is new. "
            "Bring rows (tuneline data ingest), or set fetch.continue_from to an earlier version or to null"
        )
    fetch = chosen.fetch.model_copy(update={"continue_from": version.reference})
    return chosen.model_copy(update={"fetch": fetch})
