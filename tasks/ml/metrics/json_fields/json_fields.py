"""Share of the reference's fields, nested ones by their path, that the answer has with equal values; 0 where it is no JSON.

Fields that the reference lacks cost nothing; a list is one value. A row whose reference is no JSON object, or an empty one,
has no fields: no value, and the mean leaves it out. tasks/data/json_answers.py says what is equal.
"""

from tasks.data import json_answers
from tasks.ml.metrics.row_metric import RowMetric


class JsonFields(RowMetric):
    NAME = "json_fields"

    def values(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        return [json_answers.fields(ours, wanted) for ours, wanted in pairs]
