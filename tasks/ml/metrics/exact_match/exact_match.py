"""Exact match: 1 where the prediction is the reference, surrounding space aside, else 0."""

import datasets
import evaluate


class ExactMatch(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        values = [float(ours.strip() == wanted.strip()) for ours, wanted in zip(predictions, references, strict=True)]
        return {"exact_match": sum(values) / len(values), "values": values}
