"""LoReFT against the paper's equation in float64; which tokens are edited, in packs as in generation; its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Launch, Optimizer
from tasks.ml import loading, own_adapter, packing
from tasks.ml.layers import loreft, places
from tests import runs
from tests.tiny import FAMILIES, Family

POSITIONS = ["f2+l3", "f2", "l3", "prompt", "all"]


def wanted(**options: Any) -> Any:
    """With untied ends, so that an exchange of them would be noticed."""
    return runs.params("reft", options={"positions": "f2+l3", **options}, optimizer=Optimizer(learning_rate=3e-2))


def orthonormal(rotation: Tensor) -> Tensor:
    """Gram-Schmidt on the columns: R^T."""
    columns: list[Tensor] = []
    for column in rotation.T:
        rest = column
        for before in columns:
            rest = rest - (before @ rest) * before
        columns.append(rest / rest.norm())
    return torch.stack(columns, dim=1)


def literal(tensors: dict[str, Tensor], where: dict[str, list[int]]) -> runs.Step:
    """h + R^T (W h + b - R h) at these places of a layer's output, one token after another."""

    def edited(states: Tensor, name: str) -> Tensor:
        rows = list(states[0])
        for group, offsets in where.items():
            if f"{name}.reft.{group}.rotation" not in tensors:
                continue
            up = orthonormal(tensors[f"{name}.reft.{group}.rotation"])
            w, b = tensors[f"{name}.reft.{group}.source.weight"], tensors[f"{name}.reft.{group}.source.bias"]
            for place in offsets:
                h = states[0, place]
                rows[place] = h + up @ (w @ h + b - up.T @ h)
        return torch.stack(rows)[None]

    return edited


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, {"first": [0, 1], "last": [17, 18, 19]}),
        ({"layers": [1], "tied": True}, {"tokens": [0, 1, 17, 18, 19]}),
        ({"positions": "l1"}, {"tokens": [19]}),
    ],
)
def test_it_is_the_papers_equation(
    tiny_bases: dict[Family, Path], family: Family, options: dict[str, Any], where: dict[str, list[int]]
) -> None:
    """Loss, gradients and three steps of AdamW with weight decay; the prompt is the whole row of 20 tokens."""
    tuned = runs.attach(tiny_bases[family], wanted(**options))
    ours: Any = tuned.runner.model.double().eval()
    ours.set_attn_implementation("eager")
    trainable = tuned.trainable()
    model: Any = runs.model(tiny_bases[family], torch.float64, "eager").eval()
    tensors = {name: value.detach().clone().requires_grad_() for name, value in trainable.items()}
    assert len(tensors) == (9 if not options else 3 if "layers" in options else 6)
    mine, theirs = (
        torch.optim.AdamW(values, lr=1e-2, weight_decay=0.1) for values in (trainable.values(), tensors.values())
    )
    for number in range(3):
        ids = torch.tensor([runs.row(number, 20).ids])
        states = model.get_input_embeddings()(ids).detach()
        spelled = runs.spelled_out(model, states, layer=literal(tensors, where))
        found, expected = (
            F.cross_entropy(logits[0, -1:], ids[0, :1]) for logits in (ours(input_ids=ids).logits, spelled)
        )
        runs.assert_steps_alike(found, expected, trainable, tensors, (mine, theirs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_rows_have_the_loss_of_separate_ones(
    tiny_bases: dict[Family, Path], family: Family, positions: str
) -> None:
    """Rows whose prompt is long, short for both ends, one token, and a row without any answer."""
    tuned = runs.attach(tiny_bases[family], wanted(positions=positions))
    tuned.runner.model.eval()
    rows = [runs.row(number, length) for number, length in ((1, 9), (2, 40), (3, 2), (4, 6), (5, 25))]
    rows[3] = type(rows[3])(rows[3].id, rows[3].ids, [False] * 6)
    apart, plain = (
        [runs.loss(runner, [row]) for row in rows]
        for runner in (tuned.runner, runs.Runner.of(runs.model(tiny_bases[family])))
    )
    assert runs.loss(tuned.runner, rows) == pytest.approx(sum(apart), rel=1e-6)
    assert apart != pytest.approx(plain, rel=1e-4)
    assert tuned.runner.shares == (positions == "all" and family != "gpt2")


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_answer_moves_no_edit(tiny_base: Path, positions: str) -> None:
    """The loss of the first predicted token is the same whatever comes after it: edits know the prompt alone."""
    tuned = runs.attach(tiny_base, wanted(positions=positions))
    row = runs.row(5, 24)
    first = [place == 12 for place in range(24)]
    short, long = (type(row)("0", row.ids[:length], first[:length]) for length in (13, 24))
    assert runs.loss(tuned.runner, [short]) == pytest.approx(runs.loss(tuned.runner, [long]), rel=1e-6)


def test_prompts_end_where_predictions_begin() -> None:
    rows = [runs.row(1, 9), runs.row(2, 2), runs.row(3, 7)]
    rows[2] = type(rows[2])("3", rows[2].ids, [False] * 7)
    assert places.prompts(packing.pack(rows)) == [4, 1, 7]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_no_token_is_edited_twice_and_none_beyond_the_prompt(length: int, first: int, last: int, tied: bool) -> None:
    found = places.Positions(f"f{first}+l{last}", tied).of(length)
    tokens = [offset for offsets in found.values() for offset in offsets]
    assert len(set(tokens)) == len(tokens) and set(tokens) <= set(range(length))
    wanted_tokens = set(range(min(first, length))) | set(range(max(0, length - last), length))
    assert set(tokens) <= wanted_tokens
    if first + last <= length and max(first, last) <= length // 2:
        assert set(tokens) == wanted_tokens
    if not tied and length > 1:
        assert max(found["first"]) < min(found["last"])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_trains_resumes_saves_and_comes_back(
    tiny_bases: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    base = tiny_bases[family]
    tuned = runs.assert_killed_ends_as_undisturbed(base, tmp_path, wanted(), monkeypatch)
    start = runs.attach(base, wanted()).trainable()
    assert [name for name, value in tuned.trainable().items() if torch.equal(value, start[name])] == []
    runs.assert_comes_back(base, runs.saved(tuned, tmp_path / "adapter"), tuned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_r_stays_orthonormal(tiny_base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """After training at a high rate with weight decay, on a base of either precision; held in float32."""
    launch = Launch(dtype="bfloat16" if dtype == torch.bfloat16 else "float32")
    optimizer = Optimizer(learning_rate=0.3, weight_decay=0.5)
    params = wanted().model_copy(update={"launch": launch, "optimizer": optimizer})
    tuned, _ = runs.fit(tiny_base, tmp_path / "work", params)
    assert tuned.runner.model.dtype == dtype
    found = [module for module in tuned.runner.model.modules() if isinstance(module, loreft.Intervention)]
    assert len(found) == 3
    for intervention in found:
        assert {value.dtype for value in intervention.parameters()} == {torch.float32}
        columns = intervention.columns()
        torch.testing.assert_close(columns.T @ columns, torch.eye(4), rtol=0, atol=1e-5)
    runs.assert_comes_back(tiny_base, runs.saved(tuned, tmp_path / "adapter"), tuned)


def test_the_loss_falls(tiny_base: Path, tmp_path: Path) -> None:
    _, result = runs.fit(tiny_base, tmp_path / "work", wanted().model_copy(update={"epochs": 6}))
    assert result.validations[-1].loss < result.validations[0].loss - 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_again_change_nothing(tiny_bases: dict[Family, Path], family: Family) -> None:
    """Two packs are through before the first goes back: each keeps its own edits."""
    assert runs.gradients(tiny_bases[family], wanted(), recompute=True) == runs.gradients(tiny_bases[family], wanted())


@pytest.mark.parametrize(
    ("family", "options"),
    [(family, {}) for family in FAMILIES]
    + [("llama", {"positions": positions}) for positions in POSITIONS[1:]]
    + [("gpt2", {"tied": True}), ("gpt2", {"positions": "all"})],
)
def test_a_batch_generates_as_its_rows_alone(
    tiny_bases: dict[Family, Path], tmp_path: Path, family: Family, options: dict[str, Any]
) -> None:
    tuned = runs.attach(tiny_bases[family], wanted(**options))
    runs.assert_batches_generate_as_singles(tiny_bases[family], runs.saved(tuned, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"layers": [0, 2]}}, "train.options.layers: there is no layer 2; this base has 0 to 1"),
        ({"options": {"layers": []}}, "train.options.layers"),
        ({"options": {"positions": "f0+l2"}}, "train.options.positions"),
        ({"options": {"positions": "7"}}, "train.options.positions"),
        ({"options": {"places": "f7"}}, "known here: layers, positions, rank, tied"),
        ({"rank": 33}, "train.rank=33 is above the hidden dimensions (32): choose a lower rank"),
    ],
)
def test_what_can_t_be_is_refused_before_training(tiny_base: Path, changes: Any, says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        runs.attach(tiny_base, runs.params("reft", **changes))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 5}, "is (32, 4), the model has (32, 5)"),
        ({"rank": None}, "does not fit the base: train.rank=None"),
        ({"layers": [9]}, "does not fit the base: train.options.layers: there is no layer 9"),
        ({"layers": [0]}, "has 'model.layers.1.reft.last.rotation', which has no place in the model"),
        ({"positions": "__import__('os')"}, "options.positions"),
    ],
)
def test_a_description_that_lies_is_refused(tiny_base: Path, tmp_path: Path, changes: Any, says: str) -> None:
    adapter = runs.saved(runs.attach(tiny_base, wanted()), tmp_path / "adapter")
    described = json.loads((adapter / own_adapter.CONFIG).read_bytes())
    described["options"] |= changes
    (adapter / own_adapter.CONFIG).write_text(json.dumps(described))
    with pytest.raises(ModelError) as caught:
        loading.with_adapter(runs.model(tiny_base), adapter)
    assert says in str(caught.value)
