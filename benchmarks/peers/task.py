"""What every peer is asked and what it answers. Imported by the peers' interpreters: standard library and pyarrow only.

    PYTHON benchmarks/peers/NAME_prepare.py FILE BASE MAX_LENGTH PROCESSES OUT

FILE holds JSON lines in the OpenAI messages form, BASE is a model folder with a ChatML template, OUT a new folder for
everything that the peer writes. The answer is the last line of standard output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

USAGE = "expected FILE BASE MAX_LENGTH PROCESSES OUT"


@dataclass(frozen=True)
class Task:
    """`max_length`: tokens of a pack."""

    file: Path
    base: Path
    max_length: int
    processes: int
    out: Path


@dataclass(frozen=True)
class Answer:
    """`rows`: sequences in the packs. `tokens`: without padding. `loss_tokens`: those that are learned.

    `seconds`: from the opened file to the packs on disk, without imports, tokenizer and model.
    """

    version: str
    rows: int
    tokens: int
    loss_tokens: int
    packs: int
    seconds: float


def read() -> Task:
    """The task of the command line. Call it before `datasets` is imported: that is when its cache is chosen.

    Law: nothing of an earlier run is used again, for OUT must be new.
    """
    if len(sys.argv) != 6:
        sys.exit(f"{Path(sys.argv[0]).name}: {USAGE}, found {len(sys.argv) - 1} arguments")
    file, base, max_length, processes, out = sys.argv[1:]
    task = Task(Path(file).absolute(), Path(base).absolute(), int(max_length), int(processes), Path(out).absolute())
    try:
        task.out.mkdir(parents=True)
    except FileExistsError:
        sys.exit(f"{task.out} exists: name a new folder, so that no cache of an earlier run is used")
    os.environ.update(HF_DATASETS_CACHE=str(task.out / "cache"), HF_HUB_OFFLINE="1", DO_NOT_TRACK="1")
    return task


def answer(given: Answer) -> None:
    print(json.dumps(asdict(given)), flush=True)


def batches(files: Sequence[Mapping[str, str]]) -> Iterator[Any]:
    """The record batches of a dataset's own Arrow files (`Dataset.cache_files`), read one by one.

    Not through the dataset: it maps the files, and counting would then add their pages to the memory of its process.
    """
    import pyarrow as pa

    for file in files:
        with pa.OSFile(file["filename"], "rb") as source, pa.ipc.open_stream(source) as stream:
            yield from stream


def other_than(column: Any, value: int) -> int:
    """How many numbers in a column of lists are not `value`."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.not_equal(column.flatten(), value)).as_py() or 0)  # pyright: ignore
