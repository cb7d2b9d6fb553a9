"""ROUGE-2: F-measure of shared pairs of neighbouring words (Lin 2004), by Google's rouge-score, without stemming.

An answer or a reference of one word holds no pair: its value is 0, also where both are equal."""

import datasets
import evaluate
from rouge_score import rouge_scorer


class Rouge2(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        scorer = rouge_scorer.RougeScorer(["rouge2"])
        pairs = zip(predictions, references, strict=True)
        values = [scorer.score(wanted, ours)["rouge2"].fmeasure for ours, wanted in pairs]
        return {"rouge_2": sum(values) / len(values), "values": values}
