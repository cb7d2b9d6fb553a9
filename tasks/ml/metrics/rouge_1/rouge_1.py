"""ROUGE-1: F-measure of shared single words (Lin 2004), by Google's rouge-score, without stemming."""

from rouge_score import rouge_scorer

from tasks.ml.metrics.row_metric import RowMetric


class Rouge1(RowMetric):
    NAME = "rouge_1"

    def values(self, predictions, references):
        scorer = rouge_scorer.RougeScorer(["rouge1"])
        pairs = zip(predictions, references, strict=True)
        return [scorer.score(wanted, ours)["rouge1"].fmeasure for ours, wanted in pairs]
