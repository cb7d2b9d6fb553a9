"""The store that the commands look into."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from tasks.storage import checkout
from tasks.storage.corpus import Corpus


@contextmanager
def corpus() -> Generator[Corpus]:
    """The corpus of this environment, for the length of the block."""
    with checkout.connected(os.environ) as environ:
        yield Corpus.open(environ)
