"""What the loss on the validation rows decides: when a training ends, and which weights it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ParamsError
from tasks.core.sections import Optimizer, TrainParams, Validation
from tasks.ml import training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Result
from tasks.ml.tuned import Tuned
from tests import runs

LEARNED, OTHERS = [runs.row(number, 24) for number in range(8)], [runs.row(number, 24) for number in range(100, 104)]
"""Of other tokens each: what is learned by heart from the first makes the loss on the others rise."""
OVERFITTED = runs.params("lora", epochs=20, optimizer=Optimizer(learning_rate=3e-2, schedule="constant", warmup=0.0))
EVERY_STEP = 1000


def fit(base: Path, folder: Path, seconds: float = 1e9, **validation: Any) -> tuple[Tuned, Result]:
    params = OVERFITTED.model_copy(update={"validation": Validation(times=EVERY_STEP, **validation)})
    tuned = runs.attach(base, params)
    return tuned, training.fit(tuned, [[row] for row in LEARNED], OTHERS, params, Checkpoints(folder, seconds))


def losses(result: Result) -> list[float]:
    return [validation.loss for validation in result.validations]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_training_ends_after_so_many_measurements_without_a_lower_loss(
    tiny_base: Path, tmp_path: Path, patience: int
) -> None:
    _, whole = fit(tiny_base, tmp_path / "whole")
    _, result = fit(tiny_base, tmp_path / "patient", patience=patience)
    found = losses(result)
    assert len(result.history) < len(whole.history) and found == losses(whole)[: len(found)]
    since = [len(found[: end + 1]) - 1 - found.index(min(found[: end + 1])) for end in range(len(found))]
    assert since[-1] == patience and max(since[:-1]) < patience, "not a measurement sooner, nor later"


def test_the_weights_are_those_of_the_lowest_loss_or_the_last(tiny_base: Path, tmp_path: Path) -> None:
    for keep, wanted in (("best", min), ("last", lambda found: found[-1])):
        tuned, result = fit(tiny_base, tmp_path / keep, patience=3, keep=keep)
        found = losses(result)
        assert min(found) < found[-1] * (1 - 1e-4)
        assert training.mean_loss(tuned.runner, OTHERS) == pytest.approx(wanted(found), rel=1e-6)


def test_a_killed_training_keeps_its_best(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the lowest loss: it is found again in the checkpoint."""
    undisturbed, result = fit(tiny_base, tmp_path / "whole", patience=3, keep="best")
    lowest = result.validations[losses(result).index(min(losses(result)))].step
    runs.kill(monkeypatch, lowest + 2)
    with pytest.raises(runs.Killed):
        fit(tiny_base, tmp_path / "killed", seconds=0, patience=3, keep="best")
    found, resumed = fit(tiny_base, tmp_path / "killed", seconds=0, patience=3, keep="best")
    assert losses(resumed) == losses(result)
    assert all(torch.equal(value, found.trainable()[name]) for name, value in undisturbed.trainable().items())


def test_patience_without_rows_to_measure_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    params: TrainParams = OVERFITTED.model_copy(update={"validation": Validation(patience=1)})
    with pytest.raises(ParamsError, match="patience needs validation rows: raise prepare.splits.valid"):
        training.fit(runs.attach(tiny_base, params), [[row] for row in LEARNED], [], params, Checkpoints(tmp_path, 1e9))
