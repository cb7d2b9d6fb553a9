"""Every method on every family of models: it learns, comes back as it was saved, and survives being killed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.data.chatset import Segment
from tasks.ml import attention, fused, loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.tuned import Ahead, Tuned
from tests import method_cases, runs
from tests.tiny import Family

GRID: tuple[Family, ...] = ("llama", "qwen", "gpt2")


ROWS = [runs.row(number, 8 + number % 9) for number in range(8)]
HELD_OUT = [runs.row(number, 9 + number % 5) for number in range(20, 24)]

Fresh = Callable[..., Any]


@pytest.fixture(scope="module")
def fresh(tiny_bases: dict[Family, Path]) -> Fresh:
    """A new model of a family, read from disk once."""
    loaded: dict[Any, Any] = {}

    def make(
        family: Family, held: str = "plain", kernel: str = attention.NAME, dtype: torch.dtype = torch.float32
    ) -> Any:
        key = (family, held, kernel, dtype)
        if key not in loaded:
            loaded[key] = loading.load(tiny_bases[family], dtype, held=held, attention=kernel).requires_grad_(False)
        made = copy.deepcopy(loaded[key])
        made.name_or_path = str(tiny_bases[family])
        return made

    return make


def attach(
    fresh: Fresh, family: Family, params: TrainParams, *, fuse: bool = True, dtype: torch.dtype = torch.float32
) -> Tuned:
    method, options = methods.find(params)
    torch.manual_seed(params.launch.seed)
    frozen = fresh(family, method.base(options), dtype=dtype)
    tuned = method.attach(frozen, params, options, Ahead(4, [[row] for row in ROWS]))
    if fuse:
        fused.fuse(tuned.runner.model)
    return tuned


def fit(tuned: Tuned, folder: Path, params: TrainParams, seconds: float = 1e9) -> None:
    result = training.fit(tuned, [[row] for row in ROWS], HELD_OUT, params, Checkpoints(folder, seconds))
    assert result.history[-1].step == 4


@pytest.mark.parametrize("family", GRID)
@pytest.mark.parametrize("method", methods.known())
def test_a_method_learns_and_comes_back_as_it_was_saved(
    fresh: Fresh, tiny_bases: dict[Family, Path], tmp_path: Path, method: str, family: Family
) -> None:
    params = method_cases.params(method, tiny_bases[family])
    _skip_if_not_installed(params)
    if (method, family) in method_cases.REFUSED:
        with pytest.raises(ParamsError) as caught:
            attach(fresh, family, params)
        assert method_cases.REFUSED[method, family] in str(caught.value)
        return
    tuned = attach(fresh, family, params)
    before, start = {name: value.clone() for name, value in tuned.trainable().items()}, _mean(tuned, ROWS)
    fit(tuned, tmp_path / "checkpoints", params)
    still = {name for name, value in tuned.trainable().items() if torch.equal(before[name], value)}
    assert _mean(tuned, ROWS) < start
    assert not still or method in method_cases.RESTS

    folder = tmp_path / "adapter"
    assert runs.files(tuned, folder)
    again = loading.with_adapter(fresh(family, methods.find(params)[0].base(methods.find(params)[1])), folder)
    assert math.isclose(training.mean_loss(again, HELD_OUT), _mean(tuned, HELD_OUT), rel_tol=1e-6)
    _packed_is_separate(tuned)
    if (folder / "adapter_config.json").exists() and methods.find(params)[0].base(methods.find(params)[1]) == "plain":
        _is_pefts_own(fresh(family, kernel="eager"), folder, tuned)


def _first(method: str) -> Family:
    """A family that takes it."""
    return next(family for family in GRID if (method, family) not in method_cases.REFUSED)


def _skip_if_not_installed(params: TrainParams) -> None:
    try:
        methods.find(params)
    except ParamsError as error:
        assert "which is not installed" in str(error)
        pytest.skip(str(error))


def _mean(tuned: Tuned, rows: Sequence[Segment]) -> float:
    return training.mean_loss(tuned.runner, rows)


def _packed_is_separate(tuned: Tuned) -> None:
    tuned.runner.model.eval()
    with torch.no_grad():
        together = tuned.runner.loss_sum(packing.pack(HELD_OUT), 0.0).item()
        apart = sum(tuned.runner.loss_sum(packing.pack([row]), 0.0).item() for row in HELD_OUT)
    assert math.isclose(together, apart, rel_tol=1e-6)


def _is_pefts_own(base: Any, folder: Path, tuned: Tuned) -> None:
    """What PeftModel makes of the saved adapter, a row at a time, has the loss that our packed rows have."""
    from peft import PeftModel

    theirs: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    total = 0.0
    with torch.no_grad():
        for row in HELD_OUT:
            logits = theirs(input_ids=torch.tensor([row.ids])).logits[0, -len(row.ids) :]
            losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row.ids[1:]), reduction="none")
            total += losses[torch.tensor(row.loss[1:])].sum().item()
        ours = tuned.runner.loss_sum(packing.pack(HELD_OUT), 0.0).item()
    assert math.isclose(ours, total, rel_tol=1e-5)


@pytest.mark.parametrize("method", methods.known())
def test_on_a_bfloat16_base_what_comes_back_is_what_was_saved(
    fresh: Fresh, tiny_bases: dict[Family, Path], tmp_path: Path, method: str
) -> None:
    """To the last bit, whichever of the adapter's tensors are float32 and which are not."""
    family = _first(method)
    params = method_cases.params(method, tiny_bases[family])
    _skip_if_not_installed(params)
    tuned = attach(fresh, family, params, fuse=False, dtype=torch.bfloat16)  # as the adapter runs beside its base
    torch.manual_seed(1)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value), alpha=0.02)
    assert runs.files(tuned, tmp_path / "adapter")
    found, options = methods.find(params)
    again = loading.with_adapter(fresh(family, found.base(options), dtype=torch.bfloat16), tmp_path / "adapter")
    loss, wanted = training.mean_loss(again, HELD_OUT), _mean(tuned, HELD_OUT)
    assert loss == wanted or (method in method_cases.ROUNDED and math.isclose(loss, wanted, rel_tol=1e-5))


@pytest.mark.parametrize("method", methods.known())
def test_a_killed_run_ends_with_the_same_bytes(
    fresh: Fresh, tiny_bases: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    family = _first(method)
    params = method_cases.params(method, tiny_bases[family])
    _skip_if_not_installed(params)
    undisturbed = attach(fresh, family, params)
    fit(undisturbed, tmp_path / "whole", params)
    calls = runs.kill(monkeypatch, 3)
    with pytest.raises(runs.Killed):
        fit(attach(fresh, family, params), tmp_path / "killed", params, seconds=0)
    resumed = attach(fresh, family, params)
    fit(resumed, tmp_path / "killed", params, seconds=0)
    assert len(calls) == 5
    assert runs.files(resumed, tmp_path / "resumed") == runs.files(undisturbed, tmp_path / "undisturbed")


@pytest.mark.parametrize("method", ["lora", "dora", "adalora"])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "paged_adamw_8bit"])
def test_training_with_our_forwards_is_training_with_pefts(
    fresh: Fresh, tmp_path: Path, method: str, optimizer: Any
) -> None:
    """Step for step: what our forwards keep between steps follows the weights, whichever optimizer moved them."""
    chosen = method_cases.PARAMS.optimizer.model_copy(update={"name": optimizer})
    params = method_cases.params(method).model_copy(update={"optimizer": chosen})
    curves: list[list[float]] = []
    for fuse in (True, False):
        tuned = attach(fresh, "llama", params, fuse=fuse)
        checkpoints = Checkpoints(tmp_path / str(fuse), 1e9)
        result = training.fit(tuned, [[row] for row in ROWS], HELD_OUT, params, checkpoints)
        curves.append([record.loss for record in result.history] + [record.loss for record in result.validations])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
