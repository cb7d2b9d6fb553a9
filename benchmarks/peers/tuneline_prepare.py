"""The line's own way from a landing file to packs: what `tuneline data ingest` and `prepare` do, without store and DVC.

RULES=ignore in the environment switches the quality rules off: then it does what the peers do, and still removes exact
duplicates, splits by prompt, accounts for every row and writes the data card.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import task
from benchmarks.peers.task import Answer
from tasks.core import manifest
from tasks.core.sections import DataParams, PrepareParams
from tasks.core.step import QUIET
from tasks.data import arrival, shards
from tasks.data.seen import Seen
from tasks.prepare import prepare

IGNORED = {
    "near_duplicates": {"action": "ignore"}, "contamination": {"action": "ignore"}, "lengths": {"action": "ignore"},
    "answers": {"repeated": "ignore", "loops": "ignore", "refusals": "ignore"}, "pii": {"action": "ignore"},
}  # fmt: skip


def corpus(file: Path, out: Path) -> None:
    """One landing file as a corpus: every row read, checked, made canonical, and kept once."""
    with manifest.staged(out) as folder:
        lines, refused = folder.parent / "lines", folder.parent / "refused"
        with (
            lines.open("wb") as accepted, refused.open("wb") as report,
            arrival.reader(DataParams(), Seen(), frozenset(), file.stat().st_size) as reader,
        ):  # fmt: skip
            account = reader.read(file, file.name, "corpus", accepted, report)
        with lines.open("rb") as rows, shards.Writer(folder, 1) as writer:
            for line in rows:
                writer.write(line)
        facts = {"rows": account.accepted, "forgotten": []}
        manifest.seal(folder, step="ingest", inputs={}, params={}, facts=facts)


def main() -> int:
    given = task.read()
    os.environ.update(QUIET, TUNELINE_THREADS=str(given.processes))
    rules = IGNORED if os.environ.get("RULES") == "ignore" else {}
    params = PrepareParams.model_validate({
        "splits": {"valid": 0.005, "test": 0.005}, "max_length": given.max_length, "quality": rules,
        "pack": {"tokens": given.max_length},
    })  # fmt: skip
    started = time.perf_counter()
    corpus(given.file, given.out / "raw")
    ingested = time.perf_counter()
    made = prepare(params, raw=given.out / "raw", base=given.base, out=given.out / "chat", report=given.out / "report")
    ended = time.perf_counter()
    print(f"ingest {ingested - started:.2f} s, prepare {ended - ingested:.2f} s", file=sys.stderr)
    facts = made.facts
    task.answer(
        Answer(
            metadata.version("tuneline"), sum(facts["rows"].values()), sum(facts["tokens"].values()),
            sum(facts["loss_tokens"].values()), facts["packs"]["count"], ended - started,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
