"""ROUGE-1: F-measure of shared single words (Lin 2004), by Google's rouge-score, without stemming."""

import datasets
import evaluate
from rouge_score import rouge_scorer


class Rouge1(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        scorer = rouge_scorer.RougeScorer(["rouge1"])
        pairs = zip(predictions, references, strict=True)
        values = [scorer.score(wanted, ours)["rouge1"].fmeasure for ours, wanted in pairs]
        return {"rouge_1": sum(values) / len(values), "values": values}
