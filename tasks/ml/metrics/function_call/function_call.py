"""F1 over the tool calls of an answer: a call counts if the reference has one of the same name and equal arguments.

Order is free, a call made twice is two. 1 where neither calls anything, 0 where one of the two alone does. Words beside the
calls don't count. tasks/data/tool_calls.py says how calls are written.
"""

import datasets
import evaluate

from tasks.data import tool_calls


class FunctionCall(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        values = [tool_calls.f1(ours, wanted) for ours, wanted in zip(predictions, references, strict=True)]
        return {"function_call": sum(values) / len(values), "values": values}
