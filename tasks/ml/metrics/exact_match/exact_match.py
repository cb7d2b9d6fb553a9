"""Exact match: 1 where the prediction is the reference, surrounding space aside, else 0."""

from tasks.ml.metrics.row_metric import RowMetric


class ExactMatch(RowMetric):
    NAME = "exact_match"

    def values(self, predictions, references):
        return [float(ours.strip() == wanted.strip()) for ours, wanted in zip(predictions, references, strict=True)]
