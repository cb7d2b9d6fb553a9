"""PCGrad: the algorithm against one written from the paper, and trainings of several tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import events
from tasks.core.sections import Batch, TrainParams
from tasks.data.chatset import Segment
from tasks.ml import conflicts, training
from tasks.ml.checkpoints import Checkpoints
from tests import runs
from tests.hearing import Heard

PROJECTED = runs.PARAMS.model_copy(update={"batch": Batch(packs=6, micro_tokens=64, pcgrad=True)})
PLAIN = runs.PARAMS.model_copy(update={"batch": Batch(packs=6, micro_tokens=64)})


def by_the_paper(gradients: list[np.ndarray], orders: list[list[int]]) -> np.ndarray:
    """Algorithm 1, in float64; `orders`: of each task, the others as they come."""
    total = np.zeros_like(gradients[0])
    for mine, order in zip(gradients, orders, strict=True):
        projected = mine.copy()
        for other in order:
            if other is not mine and projected @ gradients[other] < 0:
                projected = (
                    projected - projected @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
                )
        total = total + projected
    return total


@given(st.integers(1, 4), st.integers(0, 1000))
def test_it_is_the_papers_algorithm(tasks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    flat = [rng.standard_normal(6) for _ in range(tasks)]
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(tasks, generator=draw).tolist() for _ in range(tasks)]
    orders = [[other for other in order if other != number] for number, order in enumerate(orders)]
    given_ = [{"a": torch.tensor(g[:2]), "b": torch.tensor(g[2:]).view(2, 2)} for g in flat]
    before = [{name: value.clone() for name, value in gradient.items()} for gradient in given_]
    total, found = conflicts.project(given_, torch.Generator().manual_seed(seed))
    assert np.allclose(torch.cat([total["a"], total["b"].flatten()]).numpy(), by_the_paper(flat, orders))
    assert all(torch.equal(now[name], was[name]) for now, was in zip(given_, before, strict=True) for name in now)
    if all(one @ other >= 0 for one in flat for other in flat):
        assert found == 0 and np.allclose(total["a"].numpy(), sum(g[:2] for g in flat))


def test_two_that_conflict_leave_no_overlap() -> None:
    one, other = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 1.0])}
    total, found = conflicts.project([one, other], torch.Generator().manual_seed(0))
    assert found == 2
    # (1, 0) loses its part along (-1, 1), and the other way round
    assert torch.allclose(total["w"], torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0]))


def test_what_one_task_alone_reaches_stays() -> None:
    one, other = {"w": torch.tensor([1.0])}, {"w": torch.tensor([-2.0]), "head": torch.tensor([3.0])}
    total, found = conflicts.project([one, other, {}], torch.Generator().manual_seed(0))
    # w of the first is off the second's w and head: 1 - 2/13 * 2 of w and 2/13 * 3 of the head
    assert found == 2
    assert torch.allclose(total["head"], torch.tensor([2 / 13 * 3 + 3]))


def rows(tasks: int) -> list[Segment]:
    return [replace(row, task=f"task {number % tasks}") for number, row in enumerate(runs.ROWS)]


def opposed() -> list[Segment]:
    """The same prompts, answered by one task so and by the other otherwise."""
    made: list[Segment] = []
    for number in range(10):
        row = runs.row(number, 12)
        answer = [token + 7 for token in row.ids[6:]]
        made += [replace(row, task="a"), Segment(f"{number}'", [*row.ids[:6], *answer], row.loss, "b")]
    return made


def fit(
    base: Path, folder: Path, params: TrainParams, rows: list[Segment]
) -> tuple[dict[str, torch.Tensor], list[float]]:
    tuned = runs.attach(base, params)
    result = training.fit(tuned, [[row] for row in rows], rows[:3], params, Checkpoints(folder, 1e9))
    return dict(tuned.trainable()), [record.loss for record in result.history]


def test_one_task_trains_as_without(tiny_base: Path, tmp_path: Path) -> None:
    with events.also(heard := Heard()):
        found, losses = fit(tiny_base, tmp_path / "on", PROJECTED, rows(1))
    wanted, plain = fit(tiny_base, tmp_path / "off", PLAIN, rows(1))
    assert losses == plain and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any("changed nothing" in said for said in heard.texts())


def test_tasks_that_conflict_are_projected_and_both_are_learned(tiny_base: Path, tmp_path: Path) -> None:
    with events.also(heard := Heard()):
        found, losses = fit(tiny_base, tmp_path / "on", PROJECTED, opposed())
    wanted, plain = fit(tiny_base, tmp_path / "off", PLAIN, opposed())
    assert losses[0] == pytest.approx(plain[0], rel=1e-6), "the first loss is measured before anything is projected"
    assert losses[-1] < losses[0] and any(not torch.equal(found[name], wanted[name]) for name in wanted)
    (note,) = [said for said in heard.texts() if said.startswith("PCGrad")]
    assert int(note.split()[-4]) > 0, note


def test_killed_it_ends_as_undisturbed(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ROWS", rows(3))
    runs.assert_killed_ends_as_undisturbed(tiny_base, tmp_path, PROJECTED, monkeypatch)
