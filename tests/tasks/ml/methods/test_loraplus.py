"""LoRA+: PEFT's grouping of parameters, and the step that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer

from tasks.core.errors import ParamsError
from tasks.ml import methods
from tasks.ml.masters import Masters
from tests import adapting
from tests.tiny import Family

RATE, RATIO = 1e-3, 8.0


def pefts_rates(model: PeftModel) -> dict[int, float]:
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO)
    return {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}


@pytest.mark.parametrize("options", [{}, {"bias": "all"}, {"modules_to_save": ["norm"], "init": "pissa"}])
def test_rates_are_pefts(tiny_bases: dict[Family, Path], options: dict[str, Any]) -> None:
    wanted = adapting.params("loraplus", ratio=RATIO, **options)
    tuned = adapting.attach(tiny_bases["qwen"], wanted)
    wrapped: Any = tuned.runner.generate.__self__
    theirs = pefts_rates(wrapped)
    found = {name: RATE * tuned.rate(name) for name in tuned.trainable()}
    assert found == {name: theirs[id(value)] for name, value in tuned.trainable().items()}
    assert set(found.values()) == {RATE, RATE * RATIO}


def test_one_step_is_pefts(tiny_base: Path) -> None:
    """The same gradients, one step of AdamW on each: the same values."""
    wanted = adapting.params("loraplus", ratio=RATIO)
    ours, theirs = adapting.attach(tiny_base, wanted), adapting.attach(tiny_base, wanted)
    masters = Masters(ours, wanted.optimizer.model_copy(update={"max_grad_norm": 1e9}))
    masters.choose(None)
    source = torch.Generator().manual_seed(3)
    for name, value in ours.trainable().items():
        value.grad = torch.randn(value.shape, generator=source)
        theirs.trainable()[name].grad = value.grad.clone()
    wrapped: Any = theirs.runner.generate.__self__
    masters.update(1.0, RATE)
    create_loraplus_optimizer(wrapped, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO).step()
    for name, value in ours.trainable().items():
        torch.testing.assert_close(value, theirs.trainable()[name], rtol=1e-6, atol=1e-8)


def test_it_learns_faster_and_reloads(tiny_base: Path, tmp_path: Path) -> None:
    losses: dict[str, float] = {}
    for method in ("lora", "loraplus"):
        wanted = adapting.params(method).model_copy(update={"optimizer": adapting.Optimizer(learning_rate=1e-3)})
        tuned, result = adapting.fit(tiny_base, tmp_path / method, wanted)
        adapting.assert_reloads(tiny_base, tmp_path / method, wanted, tuned)
        losses[method] = result.validations[-1].loss
    assert losses["loraplus"] < losses["lora"]


def test_a_ratio_below_one_is_refused() -> None:
    with pytest.raises(ParamsError, match="train.options.ratio"):
        methods.find(adapting.params("loraplus", ratio=0.5))
