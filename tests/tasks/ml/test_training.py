"""Training: packed equals separate, a killed run ends with the same bytes, every trainable tensor moves."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import DataError, ParamsError
from tasks.core.sections import Batch, Launch, Optimizer, TrainParams
from tasks.data.chatset import Segment
from tasks.ml import attention, loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Record
from tasks.ml.tuned import Ahead, Tuned
from tests import runs

PARAMS = TrainParams(rank=4, epochs=2, launch=Launch(dtype="float32"), batch=Batch(packs=4, micro_tokens=64))
AHEAD = Ahead(10, ())


def example(number: int, length: int) -> Segment:
    ids = [(number * 31 + place * 7) % 300 + 3 for place in range(length)]
    return Segment(str(number), ids, [place >= length // 2 for place in range(length)])


ROWS = [example(number, 8 + number % 13) for number in range(20)]


def model(base: Path, dtype: torch.dtype = torch.float32, attend: str = attention.NAME) -> Any:
    loaded = loading.load(base, dtype, attention=attend)
    loaded.requires_grad_(False)
    return loaded


@given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.integers(1, 100))
def test_every_target_is_in_one_pack(lengths: list[int], budget: int) -> None:
    rows = [example(number, length) for number, length in enumerate(lengths)]
    made = list(packing.packs(rows, budget))
    assert [length for pack in made for length in pack.lengths] == lengths
    assert all(len(pack.lengths) == 1 or pack.ids.shape[1] <= budget for pack in made)
    targets = [token for pack in made for token in pack.targets.tolist()]
    assert targets == [token for row in rows for token, loss in zip(row.ids, row.loss, strict=True) if loss]


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(1, 20), st.integers(0, 10)), min_size=1, max_size=5))
def test_a_common_beginning_stands_once(beginning: int, rows: list[tuple[int, int]]) -> None:
    """Every row can be read back from the pack, and every target has the predictor that stands before it in its row."""
    made = alike(beginning, rows)
    pack = packing.pack(made, share=True)
    ids, starts = pack.ids[0].tolist(), [0]
    for length in pack.lengths:
        starts.append(starts[-1] + length)
    rest = starts[1:-1] if pack.shared else starts[:-1]
    assert len(rest) == len(made)
    wanted: list[tuple[int, int]] = []
    for start, row in zip(rest, made, strict=True):
        places = [*range(pack.shared), *range(start, start + len(row.ids) - pack.shared)]
        assert [ids[place] for place in places] == row.ids
        assert [pack.positions[0, place].item() for place in places] == list(range(len(row.ids)))
        wanted += [(places[at - 1], row.ids[at]) for at in range(1, len(row.ids)) if row.loss[at]]
    assert list(zip(pack.predictors.tolist(), pack.targets.tolist(), strict=True)) == wanted
    saved = sum(len(row.ids) for row in made) - len(ids)
    assert saved == pack.shared * (len(made) - 1)
    assert pack.shared or beginning < packing.SHORTEST or len(made) == 1 or min(len(row.ids) for row in made) <= 8


def alike(beginning: int, rows: list[tuple[int, int]]) -> list[Segment]:
    """Rows that begin alike, go on differently, and carry loss on their last tokens."""
    return [
        Segment(
            str(number), [*range(100, 100 + beginning), 200 + number, *example(number, middle).ids, *example(number, end).ids],
            [False] * (beginning + 1 + middle) + [True] * end,
        )
        for number, (middle, end) in enumerate(rows)
    ]  # fmt: skip


def test_sharing_changes_neither_loss_nor_gradients(tiny_base: Path) -> None:
    rows = alike(12, [(5, 3), (9, 0), (0, 7)])
    found: list[tuple[float, list[torch.Tensor]]] = []
    for share in (False, True):
        tuned = attach(model(tiny_base), PARAMS)
        with torch.no_grad():
            for value in tuned.trainable().values():
                value.copy_(torch.linspace(-0.1, 0.1, value.numel()).view_as(value))
        pack = packing.pack(rows, share=share)
        assert pack.shared == (12 if share else 0)
        loss = tuned.runner.loss_sum(pack, 0.0)
        loss.backward()
        found.append((loss.item(), [value.grad for value in tuned.trainable().values() if value.grad is not None]))
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-6)
    assert len(found[0][1]) == 28
    for apart, together in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=6))
def test_packed_rows_have_the_loss_of_separate_rows(tiny_base: Path, lengths: list[int]) -> None:
    rows, tuned = [example(number, length) for number, length in enumerate(lengths)], model(tiny_base)
    with torch.no_grad():
        together = packing.loss_sum(tuned, packing.pack(rows)).item()
        apart = sum(packing.loss_sum(tuned, packing.pack([row])).item() for row in rows)
    assert math.isclose(together, apart, rel_tol=1e-6)


def test_the_loss_is_transformers_own(tiny_base: Path) -> None:
    ours, theirs, row = model(tiny_base), model(tiny_base, attend="eager"), ROWS[7]
    labels = [token if loss else -100 for token, loss in zip(row.ids, row.loss, strict=True)]
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss.item()
        found = packing.loss_sum(ours, packing.pack([row])).item() / sum(row.loss)
    assert math.isclose(found, wanted, rel_tol=1e-6)


def fit(
    base: Path, folder: Path, params: TrainParams = PARAMS, rows: Sequence[Segment] = ROWS, seconds: float = 1e9
) -> Any:
    torch.manual_seed(params.launch.seed)
    tuned = attach(model(base, loading.compute_dtype(params.launch.dtype)), params)
    result = training.fit(tuned, [[row] for row in rows], rows[:3], params, Checkpoints(folder, seconds))
    return tuned.trainable(), result


def attach(frozen: Any, params: TrainParams) -> Tuned:
    method, options = methods.find(params)
    return method.attach(frozen, params, options, AHEAD)


def test_micro_batches_change_no_step(tiny_base: Path, tmp_path: Path) -> None:
    whole = PARAMS.model_copy(update={"batch": Batch(packs=4, micro_tokens=1000)})
    losses = [[record.loss for record in fit(tiny_base, tmp_path, params)[1].history] for params in (PARAMS, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_trainable_tensor_moves_and_the_loss_falls(tiny_base: Path, tmp_path: Path, dtype: Any) -> None:
    params = PARAMS.model_copy(
        update={"launch": Launch(dtype=dtype), "epochs": 15, "optimizer": Optimizer(learning_rate=3e-2)}
    )
    start, _ = fit(
        tiny_base, tmp_path / "a", params.model_copy(update={"epochs": 1, "optimizer": Optimizer(learning_rate=1e-30)})
    )
    end, result = fit(tiny_base, tmp_path / "b", params)
    assert len(end) == 2 * 7 * 2
    assert [name for name in end if torch.equal(start[name], end[name])] == []
    assert result.validations[-1].loss < result.validations[0].loss - 0.1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_killed_run_ends_as_an_undisturbed_one(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    params = PARAMS.model_copy(update={"options": {"dropout": dropout}})
    wanted, undisturbed = fit(tiny_base, tmp_path / "whole", params)
    calls = runs.kill(monkeypatch, 4, 9)
    for _ in range(2):
        with pytest.raises(runs.Killed):
            fit(tiny_base, tmp_path / "killed", params, seconds=0)
    found, resumed = fit(tiny_base, tmp_path / "killed", params, seconds=0)
    assert len(calls) == len(undisturbed.history) + 2
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert [record.loss for record in resumed.history] == [record.loss for record in undisturbed.history]
    assert resumed.validations == undisturbed.validations


@pytest.mark.parametrize("harm", ["truncate", "flip", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(tiny_base: Path, tmp_path: Path, harm: str) -> None:
    wanted, _ = fit(tiny_base, tmp_path / "whole")
    folder = tmp_path / "checkpoints"
    fit(tiny_base, folder, seconds=0)
    newest = max(folder.iterdir())
    file = newest / "state.safetensors"
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        (newest / "manifest.json").unlink()
    state = Checkpoints(folder, 0).newest()
    assert state is not None and f"{state.step:08}" < newest.name.removeprefix("step-")
    found, _ = fit(tiny_base, folder, seconds=0)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


BROKEN = Optimizer(learning_rate=1e30, warmup=0.0, schedule="constant")


def test_a_batch_that_gives_nan_is_named_and_kept(tiny_base: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"optimizer": BROKEN})
    with pytest.raises(DataError, match=r"train step 2: loss nan .* on the rows \d+, .* kept in ") as caught:
        fit(tiny_base, tmp_path, params, seconds=0)
    file = tmp_path / "not-finite-step-2.jsonl"
    assert str(file) in str(caught.value)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    batch = training._batch([[row] for row in ROWS], 2, 5, params)  # pyright: ignore[reportPrivateUsage]
    assert [Segment(row["id"], row["ids"], [bool(loss) for loss in row["loss"]]) for row in kept] == batch
    state = Checkpoints(tmp_path, 0).newest()
    assert state is not None and state.step == 1


def test_a_batch_that_can_t_be_kept_is_named_all_the_same(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"train step 2: loss nan .* could not be kept: .*Not a directory"):
        fit(tiny_base, tmp_path / "file" / "folder", PARAMS.model_copy(update={"optimizer": BROKEN}))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_warms_up_then_never_rises(schedule: Any) -> None:
    optimizer = Optimizer(learning_rate=1.0, schedule=schedule, warmup=0.1)
    rates = [training.learning_rate(done, 100, optimizer) for done in range(100)]
    assert rates[:11] == sorted(rates[:11]) and max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and min(rates) > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"targets": ("q_prj",)}, "no linear layer is called 'q_prj'; did you mean 'q_proj'?"),
        ({"targets": ("lm_head",)}, "no linear layer is called 'lm_head'"),
        ({"rank": 64}, "above the smaller side of model.layers.0"),
    ],
)
def test_an_adapter_that_can_t_fit_is_refused(tiny_base: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        attach(model(tiny_base), PARAMS.model_copy(update=changes))
    assert says in str(caught.value)


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ParamsError, match="unknown method 'lroa'; did you mean .*'lora'\\? known: .*lora, .*qlora"):
        methods.find(PARAMS.model_copy(update={"method": "lroa"}))


def test_lora_is_the_papers_equation(tiny_base: Path) -> None:
    """h = W x + (alpha/r) B A x (arXiv 2106.09685), in float64 on one layer."""
    tuned: Any = attach(model(tiny_base), PARAMS).runner.model
    layer = tuned.model.layers[0].self_attn.q_proj.double()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert not b.any() and a.any()
    with torch.no_grad():
        b.normal_(generator=torch.Generator().manual_seed(1))
        x = torch.randn(3, a.shape[1], dtype=torch.float64)
        wanted = x @ layer.base_layer.weight.T + PARAMS.alpha / PARAMS.rank * (x @ a.T @ b.T)
        torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)


def test_qlora_reaches_every_adapter_after_an_evaluation(tiny_base: Path) -> None:
    """bitsandbytes 0.50 repacks 4-bit weights at the first forward in eval mode on some processors; then most adapters
    silently get no gradient."""
    quantised = loading.load(tiny_base, torch.bfloat16, held="nf4", attention=attention.NAME)
    quantised.requires_grad_(False)
    tuned: Any = attach(quantised, PARAMS.model_copy(update={"method": "qlora"})).runner.model
    with torch.inference_mode():
        packing.loss_sum(tuned.eval(), packing.pack(ROWS[:2]))
    packing.loss_sum(tuned.train(), packing.pack(ROWS[:2])).backward()
    halves = [value for name, value in tuned.named_parameters() if "lora_B" in name]
    assert len(halves) == 14
    assert all(value.grad is not None and value.grad.any() for value in halves)


def test_the_record_of_a_step_is_complete(tiny_base: Path, tmp_path: Path) -> None:
    _, result = fit(tiny_base, tmp_path)
    result.write(tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].split(",") == [field.name for field in dataclasses.fields(Record)]
    assert len(lines) == 1 + 2 * math.ceil(len(ROWS) / PARAMS.batch.packs)
    assert result.history[-1].tokens == 2 * sum(len(row.ids) for row in ROWS)
