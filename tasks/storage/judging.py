"""A judge behind an endpoint: every row asked for in both orders, several at once, and nothing asked for twice.

Replies are kept under `.work/judge`, by the digest of URL, model and question, so that a run that goes on, or comes again, asks
for what is new. A reply that can't be read is not kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tasks.core import digest, events, layout
from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data import preference
from tasks.data.preference import Choice, Opinion
from tasks.storage.chat_endpoint import WAITS, Endpoint


@dataclass(frozen=True)
class Judging:
    """A Judge of tasks/data/preference.py."""

    endpoint: Endpoint
    template: str
    concurrency: int
    kept: Path

    def __call__(self, requests: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> Opinion:
        """TransientError and ParamsError as Endpoint.ask says; what was answered until then is kept."""
        rows = list(zip(requests, answers, references, strict=True))
        places = [place for place, (_, answer, reference) in enumerate(rows) if answer.strip() != reference.strip()]
        questions = [
            preference.question(self.template, rows[place][0], *pair)
            for place in places
            for pair in (rows[place][1:], rows[place][:0:-1])  # the answer first, then the reference first
        ]
        chosen = self._all(questions)
        pairs: list[tuple[Choice | None, Choice | None] | None] = [None] * len(rows)
        for place, first, second in zip(places, chosen[::2], chosen[1::2], strict=True):
            pairs[place] = (first, second)
        return preference.decide(pairs)

    def _all(self, questions: Sequence[str]) -> list[Choice | None]:
        chosen: list[Choice | None] = []
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [pool.submit(self._one, question) for question in questions]
            try:
                for future in asked:
                    chosen.append(future.result())
                    events.progress("evaluate: judge", len(chosen), len(asked))
            except BaseException:  # the first error ends it: whatever waits is not asked, and nobody waits to try again
                self.endpoint.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return chosen

    def _one(self, question: str) -> Choice | None:
        """Asked once more, with a reminder, where the reply is none of the three words."""
        for asked in (question, question + preference.REMINDER):
            if choice := self._kept(asked):
                return choice
        for asked in (question, question + preference.REMINDER):
            if choice := preference.parse(self.endpoint.ask(asked)):
                self._keep(asked, choice)
                return choice
        return None

    def _file(self, question: str) -> Path:
        key = digest.of_value({"url": self.endpoint.url, "model": self.endpoint.model, "prompt": question})
        return self.kept / key[:2] / key

    def _kept(self, question: str) -> Choice | None:
        try:
            return preference.parse(self._file(question).read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def _keep(self, question: str, choice: Choice) -> None:
        """Whole or not at all, whoever else writes the same."""
        file = self._file(question)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="utf-8", delete=False) as written:
            written.write(choice)
        Path(written.name).replace(file)


def of(
    params: EvaluateParams, environment: Mapping[str, str] = os.environ, waits: tuple[float, ...] = WAITS
) -> Judging | None:
    """The judge that the params name; None: none is asked for. ParamsError: it is not whole. Nothing is asked yet."""
    if preference.NAME not in params.metrics:
        return None
    judge = params.judge
    for name, value in (("url", judge.url), ("model", judge.model)):
        if value is None:
            raise ParamsError(
                f"evaluate.judge.{name}: the metric judge needs it: for instance {{url: http://127.0.0.1:8000/v1, model: NAME}}"
            )
    assert judge.url is not None and judge.model is not None
    template = judge.prompt or preference.PROMPT
    preference.check(template)
    endpoint = Endpoint.open(judge.url, judge.model, environment, waits)
    return Judging(endpoint, template, judge.concurrency, layout.work() / "judge")
