"""chrF: character n-gram F-score (Popovic 2015), by sacrebleu, from 0 to 1; the mean of the rows' scores."""

import datasets
import evaluate
from sacrebleu.metrics import CHRF


class ChrF(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        scorer = CHRF()
        pairs = zip(predictions, references, strict=True)
        values = [scorer.sentence_score(ours, [wanted]).score / 100 for ours, wanted in pairs]
        return {"chrf": sum(values) / len(values), "values": values}
