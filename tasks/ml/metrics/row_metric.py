"""What the project's own metrics share as `evaluate` modules: texts in, a value a row and their mean out."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from tasks.data import json_answers


class RowMetric(evaluate.Metric, abc.ABC):
    """`NAME` is its folder's. Abstract, so that `evaluate.load` takes the module's own class and not this one."""

    NAME: str

    @abc.abstractmethod
    def values(self, predictions: Sequence[str], references: Sequence[str], **options: Any) -> Sequence[float | None]:
        """One a row, in order; None where there is nothing to judge."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        said = inspect.getdoc(inspect.getmodule(type(self))) or ""
        return evaluate.MetricInfo(description=said, citation="", features=features)

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        values = self.values(predictions, references, **kwargs)
        return {self.NAME: json_answers.mean(values), "values": values}
