"""chrF: character n-gram F-score (Popovic 2015), by sacrebleu, from 0 to 1; the mean of the rows' scores."""

from sacrebleu.metrics import CHRF

from tasks.ml.metrics.row_metric import RowMetric


class ChrF(RowMetric):
    NAME = "chrf"

    def values(self, predictions, references):
        scorer = CHRF()
        pairs = zip(predictions, references, strict=True)
        return [scorer.sentence_score(ours, [wanted]).score / 100 for ours, wanted in pairs]
