"""BERTScore against its paper's equations in float64, on a tiny random encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import BertScore, EvaluateParams
from tasks.ml import bertscore, metrics

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["the", "a", "cat", "dog", "sat", "lay", "on", "under", "mat", "rug", "big", "red"]
ANSWERS = [
    "the cat sat on the mat",
    "a dog",
    "red red red",
    "",
    "the mat on sat cat the",
    "big dog lay under a rug " * 9,
]
WANTED = [
    "a cat sat on a rug",
    "a dog",
    "the big dog lay",
    "the cat",
    "the cat sat on the mat",
    "a dog lay under a big rug",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def oracle(folder: Path, answer: str, wanted: str, layer: int) -> float:
    """Equations of section 3: R, P and F by loops over tokens, one text at a time, in float64."""
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    ids = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}

    def vectors(text: str) -> list[np.ndarray]:
        tokens = [ids["[CLS]"], *(ids[word] for word in text.split()), ids["[SEP]"]]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[layer][0]
        return [row / np.linalg.norm(row) for row in states.numpy()[1:-1]]

    candidate, reference = vectors(answer), vectors(wanted)
    if not candidate or not reference:
        return 0.0
    recall = sum(max(x @ y for y in candidate) for x in reference) / len(reference)
    precision = sum(max(x @ y for x in reference) for y in candidate) / len(candidate)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [None, 1])
def test_it_is_that_of_the_paper(encoder: Path, layer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [oracle(encoder, *pair, 3 if layer is None else layer) for pair in zip(ANSWERS, WANTED, strict=True)]
    assert len({round(value, 3) for value in expected}) == len(expected), "nothing is told by equal values"
    for batch in (32, 2):  # padding changes nothing
        monkeypatch.setattr(bertscore, "BATCH", batch)
        assert bertscore.f1(ANSWERS, WANTED, encoder=encoder, layer=layer) == pytest.approx(expected, abs=1e-5)


def test_as_a_metric_it_takes_its_encoder_from_the_params(encoder: Path) -> None:
    asked = EvaluateParams(metrics=("bertscore",), bertscore=BertScore(encoder=str(encoder)))
    metrics.check(asked)
    assert metrics.compute("bertscore", [*WANTED, ""], [*WANTED, ""], asked) == pytest.approx([1] * (len(WANTED) + 1))
    values = metrics.compute("bertscore", ANSWERS, WANTED, asked)
    turned = metrics.compute("bertscore", WANTED, ANSWERS, asked)
    assert values == pytest.approx(turned)
    assert values[3] == 0, "an empty answer"


def test_a_long_text_is_cut_to_what_the_encoder_takes(encoder: Path) -> None:
    long, cut = " ".join(WORDS * 20), " ".join((WORDS * 20)[:62])
    assert bertscore.f1([long], [cut], encoder=encoder) == pytest.approx([1])


def test_what_is_missing_is_said_before_the_run(encoder: Path, tmp_path: Path) -> None:
    def asked(folder: Path | None) -> EvaluateParams:
        return EvaluateParams(metrics=("bertscore",), bertscore=BertScore(encoder=str(folder) if folder else None))

    for folder, said in [
        (None, "needs an encoder"), (tmp_path / "none", "there is no folder"), (tmp_path, "lacks config.json"),
    ]:  # fmt: skip
        with pytest.raises(ParamsError, match=f"evaluate.bertscore.encoder: .*{said}"):
            metrics.check(asked(folder))
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ParamsError, match="lacks weights"):
        metrics.check(asked(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    metrics.check(asked(tmp_path))
    with pytest.raises(ModelError, match="is no encoder"):
        bertscore.f1(["a"], ["a"], encoder=tmp_path)
    with pytest.raises(ParamsError, match="has the layers 0 to 3, found 9"):
        bertscore.f1(["a"], ["a"], encoder=encoder, layer=9)
