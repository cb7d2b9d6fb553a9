"""BERTScore: F1 of greedily matched contextual embeddings (Zhang et al. 2019, arXiv 1904.09675), from -1 to 1.

The encoder is a local folder, `evaluate.bertscore` in params.yaml. Neither weighted by idf nor rescaled by a baseline, which
would need a corpus; so values compare only between answers to the same rows by the same encoder. tasks/ml/bertscore.py has
the equations.
"""

import datasets
import evaluate

from tasks.ml import bertscore


class BertScore(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references, encoder, layer=None):
        values = bertscore.f1(predictions, references, encoder=encoder, layer=layer)
        return {"bertscore": sum(values) / len(values), "values": values}
