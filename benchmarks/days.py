"""The gate on the sample corpus, day by day: each arrival is learned and judged, a spoilt one is refused, one is taken back.

It runs in a clone of the working tree of its own, with the embedded services and the real base model, one epoch, no format
but the merged model, and small suites. The test rows are a fifth of the first day's and stay the same. Days are learned from
the base, with all that came before. The spoilt arrival is every row with another one's answer, as an export whose columns have
slipped would be; the champion goes on with it, since among as many good rows a few bad ones change little.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Contender, Failure, Findings, Options, table
from benchmarks.measuring import checkout
from tasks.core.verdict import Ruling
from tasks.data.report import rulings

MODEL = "support-desk"
SETTINGS = (
    "prepare.splits.test=0.2", "prepare.splits.test_until=1", "train.epochs=1", "quantize.formats=[]", "promote.formats=[]",
    "evaluate.suite_items=2", "evaluate.latency_rows=2",
)  # fmt: skip
GOES_ON = ("prepare.quality.near_duplicates.action=ignore",)
SEED = 7
LIMIT_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("days", __doc__, measured, rounds=1, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    with tempfile.TemporaryDirectory(prefix="days-") as folder:
        place = checkout.make(Path(folder) / "clone")
        checkout.settle(place)
        days = Days(place)
        try:
            days.live()
        except Broken as error:
            return Findings(failures={error.args[0]: error.args[1]})
        return findings(days)


class Broken(Exception):
    """A command that failed, and why."""


class Days:
    """A landing folder in a checkout, the commands of its days, and what came of them."""

    def __init__(self, place: Path) -> None:
        self.place, self.landing = place, place.parent / "landing"
        self.judged: list[dict[str, Any]] = []
        self.said: list[tuple[str, str]] = []

    def live(self) -> None:
        """Broken: a command failed."""
        sample = self.place / "data" / "sample"
        first, second, third = (
            (sample / f"day{day}.jsonl").read_text(encoding="utf-8").splitlines() for day in (1, 2, 3)
        )
        self._learn("day 1", first)
        self._learn("day 2", second)
        self._learn("spoilt", list(shuffled([*first, *second])), *GOES_ON, f"fetch.continue_from={self._champion()}")
        self._run("data", "forget", "--where", "source=spoilt", "--json")
        self._learn("day 3", third)
        champion = self._champion()
        if champion != f"{MODEL}@v1":
            back = self._run("models", "rollback", MODEL, "--why", "to show that it can be undone", "--json")
            self._tell("rolled back", f"{MODEL}@champion names v{back['version']} again, v{back['previous']} before")
        whole = self._run("models", "verify", "--json")
        self._tell("verified", f"{whole['versions']} versions, {whole['blobs']} blobs, {len(whole['faults'])} faults")
        again = self._run("reproduce", champion, "--json")
        self._tell("reproduced", f"{champion}: {again['files']} files, of which {len(again['differing'])} differ")

    def _champion(self) -> str:
        return self._run("models", "show", f"{MODEL}@champion", "--json")["reference"]

    def _learn(self, arrival: str, lines: Sequence[str], *more: str) -> None:
        folder = self.landing / arrival.replace(" ", "")
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._run("data", "ingest", str(self.landing), "--json")
        settings = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
        outcome = self._run("run", "--json", *settings)
        self.judged.append({"arrival": arrival, "version": outcome["version"], **outcome["promotion"]})
        harness.say(outcome["promotion"]["words"])

    def _run(self, *words: str) -> Any:
        contender = Contender(
            " ".join(words[:2]), ("tuneline", *words), self.place, checkout.environment(self.place), answers=True,
            limit_seconds=LIMIT_SECONDS,
        )  # fmt: skip
        outcome = harness.measure(contender)
        harness.say(f"{contender.name}: {harness.brief(outcome)}")
        if isinstance(outcome, Failure):
            raise Broken(contender.name, outcome.reason)
        return outcome.result

    def _tell(self, what: str, found: str) -> None:
        self.said.append((what, found))
        harness.say(f"{what}: {found}")


def shuffled(lines: Sequence[str]) -> Iterator[str]:
    """The rows with each other's answers. Law: none keeps its own, unless all answers are alike; ids are new."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    order = sorted(range(len(rows)), key=lambda row: rows[row]["messages"][-1]["content"])
    answers = [rows[row]["messages"][-1]["content"] for row in order]
    most = max(answers.count(answer) for answer in set(answers))
    shift = random.Random(SEED).randint(most, max(most, len(rows) - most))
    for place, row in enumerate(order):
        *asked, answer = rows[row]["messages"]
        spoilt = {**answer, "content": answers[(place + shift) % len(answers)]}
        yield json.dumps(
            {**rows[row], "id": f"spoilt-{rows[row]['id']}", "messages": [*asked, spoilt]}, ensure_ascii=False
        )


def findings(days: Days) -> Findings:
    verdicts = [_verdict(each) for each in days.judged]
    tables = [
        table("The gate, arrival by arrival", ["arrival", "version", "outcome", "the rule that decided"], verdicts)
    ]
    tables += [_rules(each) for each in days.judged if each["what"] == "promoted"][-1:]
    tables.append(table("Afterwards", ["what", "found"], [list(pair) for pair in days.said]))
    failures = {} if _as_hoped(days.judged) else {"spoilt": "the spoilt arrival was promoted"}
    return Findings({}, {"judged": days.judged, "afterwards": dict(days.said)}, tables, failures)


def _as_hoped(judged: Sequence[dict[str, Any]]) -> bool:
    return all(each["what"] == "refused" for each in judged if each["arrival"] == "spoilt")


def _verdict(judged: dict[str, Any]) -> list[str]:
    """What was surely better, or what was broken first."""
    given = [Ruling.model_validate(ruling) for ruling in judged["rulings"]]
    broken = [ruling for ruling in given if not ruling.passed]
    best = [ruling for ruling in given if ruling.direction == "above"]
    return [
        judged["arrival"],
        judged["version"],
        judged["what"],
        rulings.explained((broken or best)[-1 if not broken else 0]),
    ]


def _rules(judged: dict[str, Any]) -> str:
    rows = rulings.rows([Ruling.model_validate(ruling) for ruling in judged["rulings"]])
    return table(f"The verdict on {judged['version']}", list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    sys.exit(main())
