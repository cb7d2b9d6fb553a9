"""The line's own loop on packs from the disk, for the first steps of an epoch only: what a corpus's size costs.

    python benchmarks/peers/tuneline_packs.py LESSON OUT {"packs": N}

The lesson's steps are written over and over as a training set of N packs, as `prepare` writes one, and read from there.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import lesson, tuneline_train
from benchmarks.peers.lesson import IGNORED, Answer, Asked, Clock, Lesson
from benchmarks.peers.tuneline_train import Enough, Timed
from tasks.data import chatset


def write(given: Lesson, count: int, folder: Path) -> None:
    with chatset.PackWriter(folder) as packs:
        for number, step in zip(range(count), itertools.cycle(range(given.steps)), strict=False):
            rows = given.batch(step)
            ids = np.array([token for row in rows for token in row.ids], np.int32)
            loss = np.array([label != IGNORED for row in rows for label in row.labels])
            names = [f"{number}.{place}" for place in range(len(rows))]
            packs.add(names, [""] * len(rows), [len(row.ids) for row in rows], ids, loss)


def train(asked: Asked) -> Answer:
    """Losses are not reported (0 each): they depend on which packs come first."""
    count = int(asked.setting["packs"])
    write(asked.lesson, count, asked.out / "train")
    clock, steps = Clock(asked.lesson), asked.lesson.steps
    packs = Timed(chatset.Packs(asked.out / "train"), clock, steps)
    chosen = tuneline_train.params({}, asked.lesson)
    with suppress(Enough):
        tuneline_train.fit(chosen, asked.lesson.base, asked.out, packs, lambda _tuned: None)
    return clock.answer("", [0.0] * steps)


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
