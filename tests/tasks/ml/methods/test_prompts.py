"""Prompts, P-tuning and prefixes on packed rows are PEFT's own on single ones, in loss, gradients and answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import TrainParams
from tasks.data.chatset import Segment
from tasks.ml import attention, loading, methods, packing
from tasks.ml.tuned import Ahead, Runner, Tuned
from tests.tiny import FAMILIES, Family

Bases = dict[Family, Path]
TOKENS = 5
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {}),
    ("p_tuning", {}),
    ("p_tuning", {"encoder": "lstm", "hidden": 16}),
    ("prefix", {}),
    ("prefix", {"projection": True, "init": "random", "hidden": 16}),
]


def row(number: int, length: int, alike: int = 0) -> Segment:
    ids = [place + 50 if place < alike else (number * 31 + place * 7) % 300 + 3 for place in range(length)]
    return Segment(str(number), ids, [place >= length - 4 for place in range(length)])


ROWS = [row(1, 9), row(2, 20), row(3, 5), row(4, 14)]
ALIKE = [row(number, length, alike=10) for number, length in ((1, 15), (2, 22), (3, 16))]


def model(base: Path, kernel: str = attention.NAME, dtype: torch.dtype = torch.float32) -> Any:
    loaded = loading.load(base, dtype, attention=kernel)
    loaded.requires_grad_(False)
    return loaded


def attach(
    base: Path, method: str, options: dict[str, Any], rows: list[Segment] = ROWS, kernel: str = attention.NAME
) -> Tuned:
    params = TrainParams(method=method, options={"tokens": TOKENS, **options})
    found, chosen = methods.find(params)
    torch.manual_seed(3)
    return found.attach(model(base, kernel), params, chosen, Ahead(4, [[row] for row in rows]))


def learner(tuned: Tuned) -> Any:
    made: Any = tuned.save
    assert isinstance(made.args[0], PeftModel)
    return made.args[0]


def pefts_loss(peft: Any, row: Segment) -> torch.Tensor:
    """Summed over the targets, by PeftModel's own forward."""
    labels = torch.tensor([[token if loss else -100 for token, loss in zip(row.ids, row.loss, strict=True)]])
    ids = torch.tensor([row.ids])
    out = peft(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids))
    return out.loss * sum(row.loss)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("rows", [ROWS, ALIKE], ids=["apart", "alike"])
def test_packed_rows_have_pefts_own_loss_and_gradients(
    tiny_bases: Bases, family: Family, method: str, options: dict[str, Any], rows: list[Segment]
) -> None:
    ours, theirs = (attach(tiny_bases[family], method, options, kernel=kernel) for kernel in (attention.NAME, "eager"))
    pack = packing.pack(rows, share=True)
    assert bool(pack.shared) == (rows is ALIKE)
    found = ours.runner.loss_sum(pack, 0.0)
    wanted = torch.stack([pefts_loss(learner(theirs).eval(), row) for row in rows]).sum()
    assert math.isclose(found.item(), wanted.item(), rel_tol=1e-5)
    found.backward()
    wanted.backward()
    gradients = {name: value.grad for name, value in theirs.trainable().items()}
    assert gradients and all(name.startswith("prompt_encoder.default.") for name in gradients)
    for name, value in ours.trainable().items():
        torch.testing.assert_close(value.grad, gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES[1:])  # whatever the tiny Llama reads, it repeats its last token
@pytest.mark.parametrize(("method", "options"), [METHODS[0], METHODS[1], METHODS[3]])
def test_an_answer_is_the_same_alone_and_among_others(
    tiny_bases: Bases, tmp_path: Path, family: Family, method: str, options: dict[str, Any]
) -> None:
    """Padded on the left, and as PeftModel answers a single prompt. (Several prompts it answers otherwise: it puts
    vectors before the padding.)"""
    tuned = attach(tiny_bases[family], method, options)
    _exaggerate(tuned)
    tuned.save(tmp_path)
    runner = loading.with_adapter(model(tiny_bases[family], "sdpa"), tmp_path)
    theirs: Any = PeftModel.from_pretrained(model(tiny_bases[family], "sdpa"), str(tmp_path)).eval()
    prompts = [row.ids for row in (*ROWS, *ALIKE)]
    together = generate(runner.generate, prompts)
    assert together == [generate(runner.generate, [prompt])[0] for prompt in prompts]
    assert together == [generate(theirs.generate, [prompt])[0] for prompt in prompts]
    assert together != generate(model(tiny_bases[family], "sdpa").generate, prompts)


def _exaggerate(tuned: Tuned) -> None:
    """Random answers of a tiny model hardly depend on anything: make what stands before the prompt loud."""
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.mul_(3)


def generate(how: Any, prompts: list[list[int]]) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = how(
            input_ids=ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0
        )
    assert torch.equal(out[:, :width], ids)
    return out[:, width:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_start_at_words_is_the_base_that_read_these_words(tiny_bases: Bases, family: Family, method: str) -> None:
    """The loss of a row behind them is the base's on the words and the row together."""
    from tasks.ml import prompt_starts

    text = "refund the order please now"
    words = prompt_starts.of_text(model(tiny_bases[family]), text, TOKENS)
    assert len(words) == TOKENS
    tuned = attach(tiny_bases[family], method, {"text": text})
    longer = [Segment(row.id, [*words, *row.ids], [False] * TOKENS + row.loss) for row in ROWS]
    with torch.no_grad():
        found = tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item()
        wanted = packing.loss_sum(model(tiny_bases[family]), packing.pack(longer)).item()
    assert math.isclose(found, wanted, rel_tol=1e-6)


def test_a_prefix_starts_at_the_training_rows_and_a_zero_one_at_zero(tiny_bases: Bases) -> None:
    words = [*ROWS[0].ids, *ROWS[1].ids][:12]
    tuned = attach(tiny_bases["llama"], "prefix", {"tokens": 12})
    longer = [Segment(row.id, [*words, *row.ids], [False] * 12 + row.loss) for row in ROWS]
    with torch.no_grad():
        found = tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item()
        wanted = packing.loss_sum(model(tiny_bases["llama"]), packing.pack(longer)).item()
    assert math.isclose(found, wanted, rel_tol=1e-6)
    (zeros,) = attach(tiny_bases["llama"], "prefix", {"init": "zero"}).trainable().values()
    assert not zeros.any() and zeros.shape == (TOKENS, 2 * 2 * 16)  # two layers, keys and values, two heads of 8


@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("kernel", [attention.NAME, "sdpa"])
def test_positions_that_the_base_has_not_are_refused(tiny_bases: Bases, method: str, kernel: str) -> None:
    rows = [row(1, 500)]
    with pytest.raises(ParamsError, match="tokens=13: before the longest training row, 500 tokens, .* 512 positions"):
        attach(tiny_bases["gpt2"], method, {"tokens": 13}, rows)
    tuned = attach(tiny_bases["gpt2"], method, {"tokens": 12}, rows, kernel)
    assert tuned.facts == {"virtual_tokens": 12, "longest_row": 500}
    with torch.no_grad():
        assert math.isfinite(tuned.runner.loss_sum(packing.pack(rows), 0.0).item())
        with pytest.raises(ModelError, match="513 positions, the base has 512"):
            tuned.runner.loss_sum(packing.pack([row(2, 501)]), 0.0)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("prompt", {"tokns": 3}, "train.options.tokns: unknown key; did you mean 'tokens'?"),
        ("prompt", {"tokens": 0}, "train.options.tokens: Input should be greater than or equal to 1"),
        ("prefix", {"projection": True}, "projection can't start at given keys and values"),
        ("p_tuning", {"encoder": "gru"}, "train.options.encoder: Input should be 'mlp' or 'lstm'"),
    ],
)
def test_bad_options_are_refused(method: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(TrainParams(method=method, options=options))
    assert says in str(caught.value)


def test_what_is_saved_is_what_the_encoder_makes_without_dropout(tiny_bases: Bases, tmp_path: Path) -> None:
    tuned = attach(tiny_bases["llama"], "p_tuning", {"encoder": "lstm", "hidden": 16, "dropout": 0.5})
    with torch.no_grad():
        first, second = (tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item() for _ in range(2))
        tuned.runner.model.train()
        dropped = tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item()
    assert first == second != dropped
    tuned.save(tmp_path)
    again = loading.with_adapter(model(tiny_bases["llama"]), tmp_path)
    with torch.no_grad():
        assert again.loss_sum(packing.pack(ROWS), 0.0).item() == first


@pytest.mark.parametrize("method", ["prompt", "p_tuning", "prefix"])
def test_on_a_bfloat16_base_nothing_is_lost_on_the_way_to_disk(tiny_bases: Bases, tmp_path: Path, method: str) -> None:
    params = TrainParams(method=method, options={"tokens": TOKENS})
    found, options = methods.find(params)
    tuned = found.attach(model(tiny_bases["qwen"], dtype=torch.bfloat16), params, options, Ahead(4, [ROWS]))
    assert all(value.dtype == torch.float32 for value in tuned.trainable().values())
    tuned.save(tmp_path)
    again: Runner = loading.with_adapter(model(tiny_bases["qwen"], dtype=torch.bfloat16), tmp_path)
    tuned.runner.model.eval()
    with torch.no_grad():
        losses = [runner.loss_sum(packing.pack(ROWS), 0.0).item() for runner in (tuned.runner, again)]
    assert losses[0] == losses[1]
    config = json.loads((tmp_path / "adapter_config.json").read_bytes())
    assert "/" not in json.dumps({name: value for name, value in config.items() if name != "peft_version"})


def test_noise_is_on_the_rows_alone(tiny_bases: Bases) -> None:
    """NEFTune's bound is of the row's own tokens; the virtual ones train and stay as they are."""
    tuned = attach(tiny_bases["llama"], "prompt", {})
    tuned.runner.model.train()
    torch.manual_seed(1)
    noisy = tuned.runner.loss_sum(packing.pack(ROWS), 5.0).item()
    torch.manual_seed(1)
    assert noisy == tuned.runner.loss_sum(packing.pack(ROWS), 5.0).item()
    assert noisy != tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item()
