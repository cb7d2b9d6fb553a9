"""Token F1: harmonic mean of precision and recall over words and signs, as multisets (Rajpurkar et al. 2016, arXiv 1606.05250).

Unlike SQuAD's script, articles and punctuation count: an answer may be JSON.
"""

import re
from collections import Counter

import datasets
import evaluate

TOKEN = re.compile(r"\w+|[^\w\s]")


def f1(prediction, reference):
    """Law: 1 for equal texts (two empty ones too), 0 where nothing is shared; symmetric."""
    ours, wanted = Counter(TOKEN.findall(prediction.casefold())), Counter(TOKEN.findall(reference.casefold()))
    if not ours and not wanted:
        return 1.0
    return 2 * (ours & wanted).total() / (ours.total() + wanted.total())


class TokenF1(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        values = [f1(ours, wanted) for ours, wanted in zip(predictions, references, strict=True)]
        return {"token_f1": sum(values) / len(values), "values": values}
