"""BLEU of each row (Papineni et al. 2002), by sacrebleu, from 0 to 1; the mean of the rows' scores.

Sentence BLEU with effective order: orders of n-grams that an answer is too short to hold are left out, other zero counts are
smoothed (Chen and Cherry 2014, method 3). Not corpus BLEU: that is one figure for all rows, no mean of anything, so that
two models could not be compared row by row. Tokenised as mteval-v13a does, case counts.
"""

from sacrebleu.metrics import BLEU

from tasks.ml.metrics.row_metric import RowMetric


class Bleu(RowMetric):
    NAME = "bleu"

    def values(self, predictions, references):
        scorer = BLEU(effective_order=True)
        pairs = zip(predictions, references, strict=True)
        return [scorer.sentence_score(ours, [wanted]).score / 100 for ours, wanted in pairs]
