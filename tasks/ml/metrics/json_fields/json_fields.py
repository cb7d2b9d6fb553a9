"""Share of the reference's fields, nested ones by their path, that the answer has with equal values; 0 where it is no JSON.

Fields that the reference lacks cost nothing; a list is one value. A row whose reference is no JSON object, or an empty one,
has no fields: no value, and the mean leaves it out. tasks/data/json_answers.py says what is equal.
"""

import datasets
import evaluate

from tasks.data import json_answers


class JsonFields(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        values = [json_answers.fields(ours, wanted) for ours, wanted in pairs]
        return {"json_fields": json_answers.mean(values), "values": values}
