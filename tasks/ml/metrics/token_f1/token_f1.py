"""Token F1: harmonic mean of precision and recall over words and signs, as multisets (Rajpurkar et al. 2016, arXiv 1606.05250).

Unlike SQuAD's script, articles and punctuation count: an answer may be JSON.
"""

import re
from collections import Counter

from tasks.ml.metrics.row_metric import RowMetric

TOKEN = re.compile(r"\w+|[^\w\s]")


def f1(prediction, reference):
    """Law: 1 for equal texts (two empty ones too), 0 where nothing is shared; symmetric."""
    ours, wanted = Counter(TOKEN.findall(prediction.casefold())), Counter(TOKEN.findall(reference.casefold()))
    if not ours and not wanted:
        return 1.0
    return 2 * (ours & wanted).total() / (ours.total() + wanted.total())


class TokenF1(RowMetric):
    NAME = "token_f1"

    def values(self, predictions, references):
        return [f1(ours, wanted) for ours, wanted in zip(predictions, references, strict=True)]
