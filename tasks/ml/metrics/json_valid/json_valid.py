"""Share of answers that are JSON: the whole answer, surrounding space aside, is one value as RFC 8259 and RFC 7493 have it.

JSON within a fence or a sentence is none: what reads the answer would refuse it. A row whose reference is no JSON did not
ask for it: no value, and the mean leaves it out.
"""

import datasets
import evaluate

from tasks.data import json_answers


class JsonValid(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        values = [json_answers.valid(ours, wanted) for ours, wanted in pairs]
        return {"json_valid": json_answers.mean(values), "values": values}
