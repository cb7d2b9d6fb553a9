"""Which test rows the report shows, and what every target answered: `samples.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from tasks.core import digest
from tasks.data.report.evaluations import Answer, Evaluation
from tasks.data.report.values import Value
from tasks.data.rows import Message


class Given(Value):
    """What one target answered, and whether that is the reference exactly."""

    target: str
    prediction: str
    exact: bool


class Sample(Value):
    id: str
    tags: tuple[str, ...]
    prompt: tuple[Message, ...]
    reference: str
    answers: tuple[Given, ...]


def choose(evaluations: Sequence[Evaluation], count: int, judged: str) -> tuple[Sample, ...]:
    """`count` rows spread over the tags, one of them a row that the target `judged` gets wrong, if there is one.

    Law: the choice depends on the rows alone, never on their order in the file.
    """
    by_target = {each.target: {answer.id: answer for answer in each.answers} for each in evaluations}
    order = _spread(evaluations[0].answers)
    chosen = order[:count]
    wrong = [id for id in order if not by_target[judged][id].exact]
    if chosen and wrong and not set(wrong) & set(chosen):
        chosen = [*chosen[:-1], wrong[0]]
    return tuple(_sample(id, by_target) for id in chosen)


def _spread(answers: Sequence[Answer]) -> list[str]:
    """Row ids, a row of each tag in turn; within a tag by the digest of the id, so that neighbours in the file part."""
    queues: dict[str, list[str]] = {}
    for answer in sorted(answers, key=lambda answer: (digest.of_bytes(answer.id.encode()), answer.id)):
        for tag in answer.tags or ("",):
            queues.setdefault(tag, []).append(answer.id)
    turns = zip_longest(*(queues[tag] for tag in sorted(queues)))
    return list(dict.fromkeys(id for id in chain.from_iterable(turns) if id is not None))


def _sample(id: str, by_target: Mapping[str, Mapping[str, Answer]]) -> Sample:
    row = by_target["base"][id]
    given = (
        Given(target=target, prediction=answers[id].prediction, exact=answers[id].exact)
        for target, answers in by_target.items()
    )
    return Sample(id=row.id, tags=row.tags, prompt=row.prompt, reference=row.reference, answers=tuple(given))
