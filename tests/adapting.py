"""Methods of PEFT's family on tiny bases: attached, trained for a few steps, saved, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from tasks.core.sections import Batch, Launch, Optimizer, TrainParams
from tasks.ml import attention, loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Result
from tasks.ml.tuned import Ahead, Tuned
from tests import runs

ROWS = [runs.row(number, 8 + number % 13) for number in range(20)]
PACKS = [[one] for one in ROWS]
PROBE = packing.pack(ROWS[:4])
EPOCHS, STEPS = 2, 10


def params(method: str, dtype: str = "float32", rank: int = 4, **options: Any) -> TrainParams:
    """`train` for a few steps that move something; the rest are the method's own options."""
    launch = Launch.model_validate({"dtype": dtype})
    return TrainParams(
        method=method, rank=rank, options=options, epochs=EPOCHS, launch=launch,
        batch=Batch(packs=4, micro_tokens=64), optimizer=Optimizer(learning_rate=1e-2),
    )  # fmt: skip


def base(folder: Path, wanted: TrainParams) -> Any:
    """The base as the method holds it, frozen."""
    method, options = methods.find(wanted)
    dtype = loading.compute_dtype(wanted.launch.dtype)
    model = loading.load(folder, dtype, held=method.base(options), attention=attention.NAME)
    model.requires_grad_(False)
    return model


def attach(folder: Path, wanted: TrainParams, steps: int = STEPS) -> Tuned:
    method, options = methods.find(wanted)
    torch.manual_seed(wanted.launch.seed)
    return method.attach(base(folder, wanted), wanted, options, Ahead(steps, PACKS))


def fit(folder: Path, work: Path, wanted: TrainParams, seconds: float = 1e9) -> tuple[Tuned, Result]:
    tuned = attach(folder, wanted)
    return tuned, training.fit(tuned, PACKS, ROWS[:3], wanted, Checkpoints(work, seconds))


def probe(model: Any) -> Tensor:
    """Logits (tokens, vocabulary) of a few rows, in evaluation mode."""
    with torch.inference_mode():
        return model.eval()(input_ids=PROBE.ids, position_ids=PROBE.positions, lengths=PROBE.lengths).logits[0]


def assert_reloads(folder: Path, work: Path, wanted: TrainParams, tuned: Tuned, *, exact: bool = True) -> Path:
    """Law: the saved adapter on the untouched base gives the logits of what was trained, to the last bit (not `exact`:
    to rounding); and as PEFT itself loads it, with its halves in float32, to rounding."""
    saved = work / "adapter"
    saved.mkdir(parents=True)
    tuned.save(saved)
    trained = probe(tuned.runner.model)
    close = {"rtol": 1e-5, "atol": 1e-5} if trained.dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    ours = probe(loading.with_adapter(base(folder, wanted), saved).model)
    torch.testing.assert_close(ours, trained, **({"rtol": 0.0, "atol": 0.0} if exact else close))
    theirs = probe(PeftModel.from_pretrained(base(folder, wanted), str(saved)))
    torch.testing.assert_close(theirs, trained, **close)
    assert not torch.equal(trained, probe(base(folder, wanted)))
    return saved


def assert_a_killed_run_ends_alike(folder: Path, work: Path, wanted: TrainParams, patch: pytest.MonkeyPatch) -> Tuned:
    """Law: killed twice and resumed, the same bytes and the same curve."""
    whole, undisturbed = fit(folder, work / "whole", wanted)
    with patch.context() as patched:
        runs.kill(patched, 4, 9)
        for _ in range(2):
            with pytest.raises(runs.Killed):
                fit(folder, work / "killed", wanted, seconds=0)
        again, resumed = fit(folder, work / "killed", wanted, seconds=0)
    names = whole.trainable()
    assert [name for name, value in names.items() if not torch.equal(value, again.trainable()[name])] == []
    assert [record.loss for record in resumed.history] == [record.loss for record in undisturbed.history]
    assert all(torch.equal(value, again.state()[name]) for name, value in whole.state().items())
    return whole
