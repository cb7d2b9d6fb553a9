"""The columns of a comparison: how good each target is, what it costs to serve, and what its training took."""

from __future__ import annotations

from typing import Literal

from tasks.data.report.units import Unit
from tasks.data.report.values import Value


class Column(Value):
    """`better` is None where neither direction is: such a column has no best value."""

    key: str
    label: str
    unit: Unit = ""
    better: Literal["higher", "lower"] | None = None


METRICS = {
    name: Column(key=name, label=label, unit="share", better="higher")
    for name, label in {
        "exact_match": "Exact match", "accuracy": "Accuracy", "macro_f1": "Macro-F1", "token_f1": "Token F1",
        "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF",
        "bertscore": "BERTScore", "json_valid": "Valid JSON", "json_fields": "JSON fields", "function_call": "Tool calls",
        "judge": "Judge",
    }.items()
}  # fmt: skip
QUALITY = {
    "loss": Column(key="loss", label="Loss", better="lower"),
    "perplexity": Column(key="perplexity", label="Perplexity", better="lower"),
}
KNOWN = {
    "loss_known": Column(key="loss_known", label="Loss, known rows", better="lower"),
    "loss_new": Column(key="loss_new", label="Loss, new rows", better="lower"),
}
"""Where a version is continued: what was forgotten, and what was learned."""
WORST = "worst_slice"
"""Mean of the leading metric on the part of the test rows that fares worst, of those that tasks/data/slices.py makes."""
SUITE = "suite_"
"""Before a suite's name: the share of its items that passed."""
COST = {
    "size_bytes": Column(key="size_bytes", label="Size", unit="bytes", better="lower"),
    "load_seconds": Column(key="load_seconds", label="Load", unit="s", better="lower"),
    "first_token_seconds": Column(key="first_token_seconds", label="First token", unit="s", better="lower"),
    "first_token_seconds_p95": Column(
        key="first_token_seconds_p95", label="First token, p95", unit="s", better="lower"
    ),
    "request_seconds": Column(key="request_seconds", label="Request", unit="s", better="lower"),
    "request_seconds_p95": Column(key="request_seconds_p95", label="Request, p95", unit="s", better="lower"),
    "generate_seconds": Column(key="generate_seconds", label="Generation", unit="s", better="lower"),
    "tokens_per_second": Column(key="tokens_per_second", label="Tokens/s", unit="tokens/s", better="higher"),
    "peak_memory_bytes": Column(key="peak_memory_bytes", label="Peak memory", unit="bytes", better="lower"),
}
"""Measured on the machine that evaluated; tasks/ml/latency.py has what the latencies are."""
TRAINED = {
    "trainable_parameters": Column(key="trainable_parameters", label="Trainable"),
    "trainable_share": Column(key="trainable_share", label="Trainable share", unit="share"),
    "train_seconds": Column(key="train_seconds", label="Training", unit="s"),
    "train_tokens_per_second": Column(key="train_tokens_per_second", label="Training tokens/s", unit="tokens/s"),
    "train_peak_memory_bytes": Column(key="train_peak_memory_bytes", label="Training memory", unit="bytes"),
}
"""Of what was trained, in its row alone."""
EFFICIENCY = {**COST, **TRAINED}
