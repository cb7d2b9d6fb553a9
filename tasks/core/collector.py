"""Python's garbage collector while libraries are imported: they make many objects, all of which stay."""

from __future__ import annotations

import gc

USUAL = gc.get_threshold()
SELDOM = (100_000, 20, 20)


def seldom() -> None:
    """It looks seldom: the imports of a step take a seventh less time, a short run of the line a tenth."""
    gc.set_threshold(*SELDOM)


def usual() -> None:
    """It looks as usual: from here on a cycle may hold a tensor."""
    gc.set_threshold(*USUAL)
