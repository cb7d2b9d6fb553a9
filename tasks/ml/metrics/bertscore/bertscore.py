"""BERTScore: F1 of greedily matched contextual embeddings (Zhang et al. 2019, arXiv 1904.09675), from -1 to 1.

The encoder is a local folder, `evaluate.bertscore` in params.yaml. Neither weighted by idf nor rescaled by a baseline, which
would need a corpus; so values compare only between answers to the same rows by the same encoder. tasks/ml/bertscore.py has
the equations.
"""

from tasks.ml import bertscore
from tasks.ml.metrics.row_metric import RowMetric


class BertScore(RowMetric):
    NAME = "bertscore"

    def values(self, predictions, references, encoder, layer=None):
        return bertscore.f1(predictions, references, encoder=encoder, layer=layer)
