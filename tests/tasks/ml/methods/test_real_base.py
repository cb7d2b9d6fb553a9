"""Every method on SmolLM2-135M in float32, where nothing is left to rounding: it resumes, comes back and merges there too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.sections import Batch, Optimizer
from tasks.data.chatset import Segment
from tasks.ml import attention, fused, loading, methods, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.export import merge
from tasks.ml.tuned import Ahead, Tuned
from tasks.ml.updates import Unmergeable
from tests import method_cases, runs

# The same on tiny bases: test_grid.py, test_merging.py. Some of PEFT's take minutes a step on a processor (boft, hra, frod).
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HELD_OUT = [runs.row(number, 24) for number in range(20, 24)]
STEPS = 4
METHODS = [name for name in methods.known() if (name, "llama") not in method_cases.REFUSED]


def fit(base: Path, folder: Path, method: str) -> Tuned:
    """Four steps with a checkpoint after each, or what is left of them."""
    chosen = method_cases.params(method, base).model_copy(
        update={"optimizer": Optimizer(learning_rate=1e-3), "batch": Batch(packs=2, micro_tokens=96), "epochs": 1}
    )
    found, options = methods.find(chosen)
    torch.manual_seed(chosen.launch.seed)
    packs = [[row] for row in runs.ROWS[: 2 * STEPS]]
    tuned = found.attach(model(base, found.base(options)), chosen, options, Ahead(STEPS, packs))
    fused.fuse(tuned.runner.model)
    result = training.fit(tuned, packs, HELD_OUT, chosen, Checkpoints(folder, 0))
    assert result.history[-1].step == STEPS
    return tuned


def model(base: Path, held: str = "plain") -> Any:
    return loading.load(base, torch.float32, held=held, attention=attention.NAME).requires_grad_(False)


def loss(runner: Any, rows: list[Segment] = HELD_OUT) -> float:
    return training.mean_loss(runner, rows)


@pytest.mark.parametrize("method", METHODS)
def test_it_resumes_comes_back_and_merges(real_base: Path, tmp_path: Path, method: str) -> None:
    chosen = method_cases.params(method, real_base)
    found, options = methods.find(chosen)
    tuned = fit(real_base, tmp_path / "checkpoints", method)
    wanted, adapter = runs.files(tuned, tmp_path / "adapter"), tmp_path / "adapter"
    resumed = fit(real_base, tmp_path / "checkpoints", method)  # the last checkpoint is one step before the end
    assert runs.files(resumed, tmp_path / "resumed") == wanted

    held = found.base(options)
    again = loading.with_adapter(model(real_base, held), adapter)
    assert math.isclose(loss(again), loss(tuned.runner), rel_tol=1e-4)
    (tmp_path / "merged").mkdir()
    try:
        merge.write(real_base, adapter, tmp_path / "merged", "float32")
    except Unmergeable as error:
        assert str(error)
        return
    beside = loading.with_adapter(model(real_base), adapter)  # qlora too: merged into the 16-bit base
    merged = loading.load(tmp_path / "merged", torch.float32, attention=attention.NAME)
    assert math.isclose(loss(type(beside).of(merged)), loss(beside), rel_tol=1e-3)
