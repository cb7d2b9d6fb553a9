"""Accuracy of a classifier: 1 where the answer is the reference's label, else 0.

Labels are compared as tasks/data/classes.py normalises them: case, surrounding space, quotes and full stops aside. Unlike
`exact_match`, which wants the same characters.
"""

import datasets
import evaluate

from tasks.data import classes


class Accuracy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        values = [float(classes.label(ours) == classes.label(wanted)) for ours, wanted in pairs]
        return {"accuracy": sum(values) / len(values), "values": values}
