"""What a user waits for: one request at a time, to the first and to the last token of its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tasks.core import digest, events
from tasks.data.chatset import Example
from tasks.ml.serving import Served


def sample(examples: Sequence[Example], count: int) -> list[int]:
    """Places of so many rows, always the same ones: the lowest digests of their ids. Shorter rows come first."""
    chosen = sorted(range(len(examples)), key=lambda place: digest.of_value(examples[place].id))[:count]
    return sorted(chosen, key=lambda place: len(examples[place].ids))


def measure(
    served: Served, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int], what: str
) -> dict[str, float | None]:
    """Seconds, median and 95th percentile over the prompts: until the first token is there, and the whole answer of at
    most so many tokens. The first request of a runtime makes what the later ones find, and is not counted."""
    first, whole = list[float](), list[float]()
    if prompts:
        served.generate(prompts[:1], most, ends)
    for prompt in prompts:
        first.append(_seconds(served, prompt, 1, ends))
        whole.append(_seconds(served, prompt, most, ends))
        events.progress(what, len(whole), len(prompts))
    return _figures("first_token_seconds", first) | _figures("request_seconds", whole)


def _seconds(served: Served, prompt: Sequence[int], most: int, ends: frozenset[int]) -> float:
    started = time.perf_counter()
    served.generate([prompt], most, ends)
    return time.perf_counter() - started


def _figures(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    median, high = np.percentile(seconds, [50, 95]).tolist() if seconds else (None, None)
    return {name: median, f"{name}_p95": high}
