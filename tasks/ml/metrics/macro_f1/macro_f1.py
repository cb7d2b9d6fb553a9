"""Macro-F1 of a classifier: the mean of its F1 over the references' labels, rare ones counting as much as frequent ones.

The values are pseudo-values: their mean is macro-F1 and their spread its spread, so that an interval over rows is one of
macro-F1. One alone says little and may lie outside 0 and 1. tasks/data/classes.py derives them.
"""

from tasks.data import classes
from tasks.ml.metrics.row_metric import RowMetric


class MacroF1(RowMetric):
    NAME = "macro_f1"

    def values(self, predictions, references):
        return classes.macro_f1(predictions, references)
