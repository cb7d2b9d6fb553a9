"""What `evaluate` left for each target, read once into typed values; leftovers of an earlier run stay out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from tasks.core import events, manifest
from tasks.core.errors import DataError
from tasks.core.manifest import Manifest
from tasks.core.scores import Scores
from tasks.core.sections import Metric, Name
from tasks.data import slices
from tasks.data.report import units
from tasks.data.report.values import Figure, Value, complaint
from tasks.data.rows import Message
from tasks.data.slices import Judged
from tasks.data.suites import Figures, Outcome

V = TypeVar("V", bound=BaseModel)

FIRST = ("base", "adapter", "merged")
"""Shown in this order; the exported formats follow alphabetically."""


class Answer(Value):
    """One test row as one target answered it."""

    id: str
    tags: tuple[str, ...] = ()
    prompt: tuple[Message, ...]
    reference: str
    prediction: str
    metrics: dict[Metric, Figure] = Field(default_factory=dict[Metric, Figure])
    loss: Figure = None
    tokens: int = 0
    """Of the answer, whose mean loss it is."""

    @property
    def exact(self) -> bool:
        """As the metric judged it; character for character where `exact_match` was not measured."""
        judged = self.metrics.get("exact_match")
        return self.prediction == self.reference if judged is None else judged == 1


class Judgement(Value):
    """Of the metric `judge`: rows asked for in both orders, those whose reply could not be read, and the share of the others
    whose preference changed with the order."""

    model: str
    asked: int
    unread: int = 0
    position_bias: Figure = None

    @property
    def note(self) -> str:
        bias = units.as_text(self.position_bias, "share")
        unread = f", {self.unread} could not be read" if self.unread else ""
        return f"judged by {self.model} on {self.asked} rows in both orders{unread}; {bias} changed with the order"


class Measured(Value):
    """Means over the test rows. Seconds, bytes and tokens/s are those of the machine that evaluated."""

    target: Name
    rows: int
    made: bool = True
    """Without it there was nothing to judge, and `note` says why."""
    note: str | None = None
    loss: Figure = None
    loss_known: Figure = None
    """On the rows that the continued version knew; `loss_new` on the others."""
    loss_new: Figure = None
    perplexity: Figure = None
    metrics: dict[Metric, Figure] = Field(default_factory=dict[Metric, Figure])
    judge: Judgement | None = None
    suites: dict[Name, Figures] = Field(default_factory=dict[Name, Figures])
    """Shares of the suites' items that passed."""
    runtime: str | None = None
    """What computed its answers."""
    likeness: dict[str, float] = Field(default_factory=dict[str, float])
    """Of a format: how near it is to the model it was made of, as tasks/ml/fidelity.py names it."""
    size_bytes: int | None = None
    load_seconds: Figure = None
    first_token_seconds: Figure = None
    """Median over some of the test rows, each asked alone, as all of these; then the 95th percentile."""
    first_token_seconds_p95: Figure = None
    request_seconds: Figure = None
    request_seconds_p95: Figure = None
    generate_seconds: Figure = None
    tokens_per_second: Figure = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """One target on the test rows, in the order in which they were tested, and on the suites."""

    manifest: Manifest
    measured: Measured
    answers: tuple[Answer, ...]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def target(self) -> str:
        return self.measured.target

    @property
    def scores(self) -> Scores:
        """All that the gate looks at."""
        names = list(self.measured.metrics)
        parts = slices.parts(self.judged)
        suites = {outcome.suite: dict[str, float]() for outcome in self.outcomes}
        for outcome in self.outcomes:
            suites[outcome.suite][outcome.id] = float(outcome.whole)
        return Scores(
            evaluation=self.manifest.digest, ids=tuple(answer.id for answer in self.answers),
            tokens=tuple(answer.tokens for answer in self.answers), loss=tuple(answer.loss for answer in self.answers),
            metrics={name: tuple(answer.metrics.get(name) for answer in self.answers) for name in names},
            slices={f"{kind} {name}": tuple(rows) for (kind, name), rows in parts.items()}, suites=suites,
        )  # fmt: skip

    @property
    def judged(self) -> list[Judged]:
        """The rows as they are cut into parts."""
        return [
            Judged(answer.tags, sum(len(turn.text) for turn in answer.prompt), len(answer.reference), answer.metrics)
            for answer in self.answers
        ]


def read_all(folder: Path, present: Mapping[str, str]) -> tuple[Evaluation, ...]:
    """Every target evaluated on the `present` inputs (name to digest), the base first; also one that was not made.

    Law: all that were made answered the same rows. Raises DataError where there is nothing to compare.
    """
    found = sorted((read(path) for path in _sealed(folder) if _current(path, present)), key=_order)
    targets = [evaluation.target for evaluation in found if evaluation.measured.made]
    if "base" not in targets:
        raise DataError(
            f"{folder} has no evaluation of the base on the present data (found: {', '.join(targets) or 'none'}); "
            "the report compares against it. Run the stage that makes it: dvc repro evaluate-base"
        )
    if len(targets) < 2:
        raise DataError(
            f"{folder} has an evaluation of the base only, so there is nothing to compare with it. "
            "Run the stage that evaluates the tuned model: dvc repro evaluate@merged"
        )
    _same_rows(folder, [evaluation for evaluation in found if evaluation.measured.made])
    return tuple(found)


def _stage(target: str) -> str:
    """The stage of dvc.yaml that evaluates the target."""
    if target == "base":
        return "evaluate-base"
    return f"evaluate@{target}" if target in FIRST else f"evaluate-format@{target}"


def _sealed(folder: Path) -> Iterator[Path]:
    """Finished folders only: one without a manifest does not exist, and a staged one is not yet an output."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if (path / manifest.NAME).is_file() and path.suffix not in (".partial", ".old"):
                yield path


def _order(evaluation: Evaluation) -> tuple[int, str]:
    target = evaluation.target
    return (FIRST.index(target) if target in FIRST else len(FIRST), target)


def _current(path: Path, present: Mapping[str, str]) -> bool:
    """Whether it was evaluated on the present inputs; otherwise it is named and left out."""
    inputs = manifest.read(path).inputs
    for name in sorted(present):
        if inputs.get(name, present[name]) != present[name] or (name == "chat" and name not in inputs):
            events.warning(
                f"{path} was evaluated with another {name} ({inputs.get(name, 'none')[:12]}, now "
                f"{present[name][:12]}): left out of the report. Run dvc repro {_stage(path.name)}, or delete it"
            )
            return False
    return True


def read(path: Path) -> Evaluation:
    """One target's, in a folder of its name. DataError: it is damaged."""
    sealed = manifest.verify(path)
    measured = _parse(Measured, _bytes(path / "metrics.json"), str(path / "metrics.json"))
    if measured.target != path.name:
        raise DataError(
            f"{path / 'metrics.json'} is about {measured.target!r} but lies in {path.name!r}: "
            f"delete {path} and run dvc repro {_stage(path.name)}"
        )
    answers = tuple(_lines(Answer, path / "rows.jsonl"))
    asked = path / "suites.jsonl"
    return Evaluation(sealed, measured, answers, tuple(_lines(Outcome, asked)) if asked.name in sealed.files else ())


def _lines(kind: type[V], file: Path) -> Iterator[V]:
    for number, line in enumerate(_bytes(file).split(b"\n"), 1):  # splitlines would break inside a row
        if line.strip():
            yield _parse(kind, line, f"{file}:{number}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path} is not there. Run the stage again: dvc repro --force {_stage(path.parent.name)}"
        ) from None


def _parse(kind: type[V], data: bytes, where: str) -> V:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{where}: {complaint(error)}. Run the evaluate stage of this target again") from None


def _same_rows(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    asked = {(outcome.suite, outcome.id) for outcome in evaluations[0].outcomes}
    wanted = {answer.id for answer in evaluations[0].answers}
    for evaluation in evaluations:
        ids = {answer.id for answer in evaluation.answers}
        where, again = folder / evaluation.target, f"Run dvc repro --force {_stage(evaluation.target)}"
        if len(evaluation.answers) != evaluation.measured.rows or len(ids) != evaluation.measured.rows:
            raise DataError(
                f"{where}: metrics.json counts {evaluation.measured.rows} rows, rows.jsonl holds "
                f"{len(evaluation.answers)} with {len(ids)} different ids. {again}"
            )
        if odd := sorted(ids ^ wanted):
            raise DataError(
                f"{where}: row {odd[0]!r} was answered by only one of base and {evaluation.target}, and targets are "
                f"comparable on the same rows only. {again}"
            )
        if odd := sorted(asked ^ {(outcome.suite, outcome.id) for outcome in evaluation.outcomes}):
            raise DataError(
                f"{where}: item {odd[0][1]} of the suite {odd[0][0]} was answered by only one of base and "
                f"{evaluation.target}. {again}"
            )
