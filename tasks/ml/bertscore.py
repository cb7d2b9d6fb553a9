"""BERTScore (Zhang et al. 2019, arXiv 1904.09675, section 3) with an encoder from a local folder.

    R = mean over the reference's tokens of the largest cosine with any token of the answer
    P = mean over the answer's tokens of the largest cosine with any token of the reference
    F = 2 P R / (P + R)

Embeddings are those of one layer, each scaled to length 1. The tokens that the tokenizer adds around a text (as [CLS]) take
part in the encoding and not in the matching: no text wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from tasks.core.errors import ModelError, ParamsError
from tasks.ml import loading

BATCH = 32


def f1(
    answers: Sequence[str], references: Sequence[str], *, encoder: str | Path, layer: int | None = None
) -> list[float]:
    """One F a row; 1 for two texts without a token, 0 where one of them has none.

    `layer`: 0 is the embedding, 1 the first block; the last one unless given. Longer texts are cut to what the encoder
    can take. ModelError: the folder is no encoder that transformers loads. ParamsError: it has no such layer.
    """
    texts = list(dict.fromkeys([*answers, *references]))
    embedded = dict(zip(texts, _embed(texts, Path(encoder), layer), strict=True))
    return [matched(embedded[ours], embedded[wanted]) for ours, wanted in zip(answers, references, strict=True)]


def matched(ours: Tensor, wanted: Tensor) -> float:
    """F of two texts from their embeddings of length 1, shape (tokens, width). Law: symmetric."""
    if not len(ours) or not len(wanted):
        return float(len(ours) == len(wanted))
    cosines = ours @ wanted.T
    precision, recall = cosines.amax(1).mean(), cosines.amax(0).mean()
    total = (precision + recall).item()
    return 2 * (precision * recall).item() / total if total else 0.0


def _embed(texts: Sequence[str], folder: Path, layer: int | None) -> list[Tensor]:
    """Each text's own tokens, of length 1, in float32: batches of like length."""
    model, tokenizer = _load(folder)
    depth = model.config.num_hidden_layers
    if layer is not None and not 0 <= layer <= depth:
        raise ParamsError(f"evaluate.bertscore.layer: {folder} has the layers 0 to {depth}, found {layer}")
    code = partial(
        tokenizer, truncation=True, max_length=_longest(model, tokenizer), return_special_tokens_mask=True,
        return_attention_mask=True,
    )  # fmt: skip
    lengths = [len(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda place: lengths[place], reverse=True)
    found = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        coded = code([texts[place] for place in places], padding=True, return_tensors="pt")
        for place, tokens in zip(places, _tokens(model, coded, layer), strict=True):
            found[place] = tokens
    return found


@torch.inference_mode()
def _tokens(model: Any, coded: Any, layer: int | None) -> Iterator[Tensor]:
    own = coded.pop("special_tokens_mask") == 0
    coded = coded.to(model.device)
    states = model(**coded, output_hidden_states=True).hidden_states[-1 if layer is None else layer].float()
    scaled = torch.nn.functional.normalize(states, dim=-1).cpu()
    for row, keep in zip(scaled, own & coded["attention_mask"].bool().cpu(), strict=True):
        yield row[keep]


def _load(folder: Path) -> tuple[Any, Any]:
    """Weights in safetensors alone: other files may hold code."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"evaluate.bertscore.encoder: {folder} is no encoder with its tokenizer that transformers loads: {said}"
        ) from None
    if tokenizer.pad_token is None:
        raise ModelError(f"evaluate.bertscore.encoder: the tokenizer of {folder} names no pad_token: set one there")
    return model.eval().to(loading.device()), tokenizer


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that it takes; RoBERTa's positions begin after its padding's."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    offset = (model.config.pad_token_id or 0) + 1 if model.config.model_type in ("roberta", "xlm-roberta") else 0
    return min(tokenizer.model_max_length, positions - offset)
