"""F1 over the tool calls of an answer: a call counts if the reference has one of the same name and equal arguments.

Order is free, a call made twice is two. 1 where neither calls anything, 0 where one of the two alone does. Words beside the
calls don't count. tasks/data/tool_calls.py says how calls are written.
"""

from tasks.data import tool_calls
from tasks.ml.metrics.row_metric import RowMetric


class FunctionCall(RowMetric):
    NAME = "function_call"

    def values(self, predictions, references):
        return [tool_calls.f1(ours, wanted) for ours, wanted in zip(predictions, references, strict=True)]
