"""Accuracy of a classifier: 1 where the answer is the reference's label, else 0.

Labels are compared as tasks/data/classes.py normalises them: case, surrounding space, quotes and full stops aside. Unlike
`exact_match`, which wants the same characters.
"""

from tasks.data import classes
from tasks.ml.metrics.row_metric import RowMetric


class Accuracy(RowMetric):
    NAME = "accuracy"

    def values(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        return [float(classes.label(ours) == classes.label(wanted)) for ours, wanted in pairs]
