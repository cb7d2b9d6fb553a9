"""ROUGE-L: F-measure of the longest common subsequence of words (Lin 2004), by Google's rouge-score, without stemming."""

from rouge_score import rouge_scorer

from tasks.ml.metrics.row_metric import RowMetric


class RougeL(RowMetric):
    NAME = "rouge_l"

    def values(self, predictions, references):
        scorer = rouge_scorer.RougeScorer(["rougeL"])
        pairs = zip(predictions, references, strict=True)
        return [scorer.score(wanted, ours)["rougeL"].fmeasure for ours, wanted in pairs]
