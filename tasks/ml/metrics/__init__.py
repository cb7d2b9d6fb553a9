"""Metrics, each with a value a row whose mean is what is reported, so that two models can be compared row by row.

The project's own are local `evaluate` modules: one folder each, no hub. Each gives its mean under its own name, and `values`.
A user's own is a function by its path, `my_package.my_module:function`: lists of predictions and references in, a list of
one finite float a row out (tasks/ml/own_metric.py). `judge` asks another model, which the step brings along.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data import preference
from tasks.ml import own_metric


def known() -> list[str]:
    folders = {folder.name for folder in Path(__file__).parent.iterdir() if (folder / f"{folder.name}.py").is_file()}
    return sorted(folders | {preference.NAME})


def check(params: EvaluateParams) -> None:
    """ParamsError: a metric that is not there (the message lists those that are), a function that is none or does not
    keep to what it has to give, or BERTScore without an encoder."""
    for name in params.metrics:
        if own_metric.is_path(name):
            own_metric.check(name)
        elif name not in known():
            raise ParamsError(
                f"evaluate.metrics: unknown metric {name!r}; known: {', '.join(known())}, or my_package.my_module:function"
            )
    if "bertscore" in params.metrics:
        _check_encoder(params.bertscore.encoder)


def compute(
    name: str, predictions: Sequence[str], references: Sequence[str], params: EvaluateParams | None = None
) -> list[float | None]:
    """One value a row, in order; None where the metric has nothing to judge in a row (json_fields without a JSON object)."""
    if own_metric.is_path(name):
        return list(own_metric.compute(name, predictions, references))
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    import evaluate

    metric: Any = evaluate.load(str(Path(__file__).parent / name), experiment_id=str(os.getpid()))
    options = (params or EvaluateParams()).bertscore.model_dump() if name == "bertscore" else {}
    values = metric.compute(predictions=predictions, references=references, **options)["values"]
    return [None if value is None else float(value) for value in values]


def _check_encoder(encoder: str | None) -> None:
    if encoder is None:
        raise ParamsError(
            "evaluate.bertscore.encoder: bertscore needs an encoder: give the absolute path of its folder"
        )
    folder = Path(encoder)
    lacks = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not folder.is_dir():
        raise ParamsError(
            f"evaluate.bertscore.encoder: there is no folder {encoder}: give the absolute path of an encoder"
        )
    if lacks or not list(folder.glob("*.safetensors")):
        raise ParamsError(
            f"evaluate.bertscore.encoder: {encoder} lacks {', '.join(lacks) or 'weights (*.safetensors)'}: "
            "give the folder of an encoder as transformers saves it"
        )
