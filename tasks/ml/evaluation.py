"""Measure one model on the test rows: loss and perplexity on the answers, greedy generations, metrics a row, cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tasks.core import events, manifest
from tasks.core.continued import FROZEN, Continued
from tasks.core.errors import DataError
from tasks.core.sections import Engine, EvaluateParams
from tasks.core.standing import BESIDE, Standing
from tasks.data import chatset, json_answers, preference, suites
from tasks.data.chatset import Example
from tasks.data.preference import Judge, Opinion
from tasks.data.rows import Message, Row
from tasks.data.suites import Outcome
from tasks.data.tokens import ChatTokenizer
from tasks.ml import engines, export, generation, harness, latency, loading, metrics, serving, training
from tasks.ml.asked import Asked
from tasks.ml.serving import Served
from tasks.ml.tuned import Runner


@dataclass(frozen=True)
class Report:
    """`rows` has one entry a test row, `outcomes` one an item of the suites; `summary` the means, and the cost as measured
    here."""

    rows: list[dict[str, Any]]
    outcomes: list[Outcome]
    summary: dict[str, Any]


def run(
    params: EvaluateParams, asked: Asked, judge: Judge | None = None, *, target: str, chat: Path, base: Path, model: Path
) -> Report:  # fmt: skip
    """`asked`: each suite of the params; `judge`: where they name it among the metrics.

    Law: rows and items, their order, their ids and their references are the same for every target."""
    loading.threads()
    tokenizer = ChatTokenizer(base)
    examples = _encoded(tokenizer, chat, base)
    started = time.perf_counter()
    judged = load(target, base, model, params.engine)
    load_seconds = time.perf_counter() - started
    started, losses = time.perf_counter(), list[tuple[float, int]]()
    for measured in serving.row_losses(judged, examples):
        losses.append(measured)
        events.progress(f"evaluate {target}: loss", len(losses), len(examples))
    loss_seconds, started = time.perf_counter() - started, time.perf_counter()
    prompts = [tokenizer.prompt(example.conversation, example.functions) for example in examples]
    texts, generated = generation.answer(judged, tokenizer, prompts, params, f"evaluate {target}: answers")
    generate_seconds = time.perf_counter() - started
    peak = None if judged.batches else training.peak_memory()  # before a metric loads an encoder
    alone = [prompts[place] for place in latency.sample(examples, params.latency_rows)]
    waits = latency.measure(judged, alone, params.max_new_tokens, tokenizer.ends, f"evaluate {target}: one at a time")
    outcomes = _outcomes(judged, tokenizer, asked, params, target)
    references = [_reference(tokenizer, example) for example in examples]
    opinion = judge([_request(example) for example in examples], texts, references) if judge else None
    rows = _rows(examples, references, losses, texts, params, opinion)
    return Report(rows, outcomes, {
        "target": target, "runtime": judged.runtime, "rows": len(rows), **_loss(losses),
        "metrics": {name: json_answers.mean([row["metrics"][name] for row in rows]) for name in params.metrics},
        "suites": {name: share.model_dump(mode="json") for name, share in suites.figures(outcomes).items()},
        **_known(Continued.of(manifest.read(base)), examples, losses),
        **({"judge": _judged(opinion, params)} if opinion else {}),
        "size_bytes": sum(entry.size for entry in manifest.read(model).files.values()),
        "load_seconds": load_seconds, "loss_seconds": loss_seconds, "generate_seconds": generate_seconds,
        "tokens_per_second": generated / generate_seconds, "peak_memory_bytes": peak, **waits,
    })  # fmt: skip


def _encoded(tokenizer: ChatTokenizer, chat: Path, base: Path) -> list[Example]:
    """The test rows in the tokens of the model that is judged: where it has another base than the rows were prepared for,
    its own template and tokenizer write them. DataError: they can't."""
    examples = chatset.read(chat / "test.parquet")
    if manifest.read(chat).inputs["base"] == manifest.read(base).digest:
        return examples
    rows = [Row(id=each.id, messages=each.conversation, tools=each.functions) for each in examples]
    made: list[Example] = []
    for example, coded in zip(examples, tokenizer.encode_many(rows), strict=True):
        if isinstance(coded, DataError):
            raise DataError(f"test row {example.id} can't be written for the model in {base}: {coded}")
        made.append(replace(example, ids=coded.ids, loss=coded.loss))
    return made


def _outcomes(
    judged: Served, tokenizer: ChatTokenizer, asked: Asked, params: EvaluateParams, target: str
) -> list[Outcome]:
    """The items of all suites, answered together and judged each by its checks; then the harness' tasks."""
    items = [(name, item) for name, own in asked.items() if not isinstance(own, Path) for item in own]
    prompts = [tokenizer.prompt(item.asked) for _, item in items]
    texts, _ = generation.answer(judged, tokenizer, prompts, params, f"evaluate {target}: suites")
    outcomes = [suites.judge(name, item, text) for (name, item), text in zip(items, texts, strict=True)]
    for own in asked.values():
        if isinstance(own, Path):
            outcomes += harness.outcomes(own, judged, tokenizer, params)
    return outcomes


def _known(
    continued: Continued | None, examples: Sequence[Example], losses: Sequence[tuple[float, int]]
) -> dict[str, float | None]:
    """Mean losses on the rows that the continued version knew, and on those that are new to it: what was forgotten, and
    what was learned. Nothing where no version is continued."""
    if continued is None:
        return {}
    new = [example.version > continued.data for example in examples]
    return {
        name: _mean([loss for loss, is_new in zip(losses, new, strict=True) if is_new == wanted])
        for name, wanted in (("loss_known", False), ("loss_new", True))
    }


def _loss(losses: Sequence[tuple[float, int]]) -> dict[str, float]:
    mean = _mean(losses) or 0.0
    return {"loss": mean, "perplexity": math.exp(min(mean, 700))}


def _mean(losses: Sequence[tuple[float, int]]) -> float | None:
    total = sum(count for _, count in losses)
    return sum(loss * count for loss, count in losses) / total if total else None


def load(target: str, base: Path, model: Path, engine: Engine = "transformers") -> Served:
    """The target as it is served: a plain folder, an adapter on the base that it was trained on, or a finished format."""
    sealed = manifest.read(model)
    if target == "adapter":
        return _together(base, model, sealed.facts, engine)
    if target == "merged" and not Standing.of(sealed).merged:
        return _together(model, model / BESIDE, sealed.facts, engine)
    if target in ("base", "merged"):
        frozen = model / FROZEN
        return _folder(model, frozen if frozen.is_dir() else None, loading.compute_dtype("auto"), engine)
    return export.find(target)[0].load(model, engine)


def _together(base: Path, adapter: Path, facts: Mapping[str, Any], engine: Engine) -> Served:
    """The base, held as in training, with the adapter on it."""
    return _folder(base, adapter, loading.compute_dtype(facts["dtype"]), engine, held=facts["base"])


def _folder(folder: Path, adapter: Path | None, dtype: torch.dtype, engine: Engine, *, held: str = "plain") -> Served:
    name = str(dtype).removeprefix("torch.")
    if engines.is_vllm(engine, adapter, held=held, dtype=name):
        from tasks.ml import vllm_runtime

        return vllm_runtime.serve(folder, name, adapter)
    plain = loading.load(folder, dtype, held=held)
    return serving.by_transformers(loading.with_adapter(plain, adapter) if adapter else Runner.of(plain))


def _rows(
    examples: Sequence[Example], references: Sequence[str], losses: Sequence[tuple[float, int]],
    texts: Sequence[str], params: EvaluateParams, opinion: Opinion | None,
) -> list[dict[str, Any]]:  # fmt: skip
    values: dict[str, Sequence[float | None]] = {preference.NAME: opinion.values} if opinion else {}
    for name in params.metrics:
        if name not in values:
            values[name] = metrics.compute(name, texts, references, params)
    return [
        {
            "id": example.id, "tags": example.tags, "version": example.version,
            "prompt": [{"role": message.role, "content": _words(message)} for message in example.conversation[:-1]],
            "reference": references[place], "prediction": texts[place],
            "loss": losses[place][0], "tokens": losses[place][1],
            "metrics": {name: values[name][place] for name in params.metrics},
        }
        for place, example in enumerate(examples)
    ]  # fmt: skip


def _request(example: Example) -> str:
    """All that was said before the answer, as a judge reads it."""
    return "\n\n".join(f"{message.role}: {_words(message)}" for message in example.conversation[:-1])


def _judged(opinion: Opinion, params: EvaluateParams) -> dict[str, Any]:
    facts = {"model": params.judge.model, "position_bias": opinion.position_bias}
    return facts | opinion.model_dump(include={"asked", "unread", "contradicted"})


def _reference(tokenizer: ChatTokenizer, example: Example) -> str:
    """The last answer as a model would give it back, tool calls included: what the tokens after the prompt say."""
    prompt = tokenizer.prompt(example.conversation, example.functions)
    return tokenizer.decode(example.ids[len(prompt) :])


def _words(message: Message) -> str:
    calls = [json.dumps(call.model_dump(exclude_none=True), ensure_ascii=False) for call in message.tool_calls]
    return "\n".join([message.text, *calls]).strip("\n") if calls else message.text
