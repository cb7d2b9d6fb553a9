"""ROUGE-2: F-measure of shared pairs of neighbouring words (Lin 2004), by Google's rouge-score, without stemming.

An answer or a reference of one word holds no pair: its value is 0, also where both are equal."""

from rouge_score import rouge_scorer

from tasks.ml.metrics.row_metric import RowMetric


class Rouge2(RowMetric):
    NAME = "rouge_2"

    def values(self, predictions, references):
        scorer = rouge_scorer.RougeScorer(["rouge2"])
        pairs = zip(predictions, references, strict=True)
        return [scorer.score(wanted, ours)["rouge2"].fmeasure for ours, wanted in pairs]
