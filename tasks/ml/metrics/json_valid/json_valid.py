"""Share of answers that are JSON: the whole answer, surrounding space aside, is one value as RFC 8259 and RFC 7493 have it.

JSON within a fence or a sentence is none: what reads the answer would refuse it. A row whose reference is no JSON did not
ask for it: no value, and the mean leaves it out.
"""

from tasks.data import json_answers
from tasks.ml.metrics.row_metric import RowMetric


class JsonValid(RowMetric):
    NAME = "json_valid"

    def values(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        return [json_answers.valid(ours, wanted) for ours, wanted in pairs]
