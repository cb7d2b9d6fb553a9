"""Macro-F1 of a classifier: the mean of its F1 over the references' labels, rare ones counting as much as frequent ones.

The values are pseudo-values: their mean is macro-F1 and their spread its spread, so that an interval over rows is one of
macro-F1. One alone says little and may lie outside 0 and 1. tasks/data/classes.py derives them.
"""

import datasets
import evaluate

from tasks.data import classes


class MacroF1(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        values = classes.macro_f1(predictions, references)
        return {"macro_f1": sum(values) / len(values), "values": values}
