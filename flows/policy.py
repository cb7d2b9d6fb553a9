"""Retries, timeouts and concurrency: named once, chosen by the kind of error."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.tasks import Task, exponential_backoff

from tasks.core.errors import TransientError

STAGES_AT_ONCE = 1
"""Stages share the machine's cores or its one accelerator; two at once would only slow each other."""


def is_transient(_task: Task[..., Any], _run: object, state: State[Any]) -> bool:
    """Whether another try may go better: the network and throttling, never data, params or a bad model."""
    return isinstance(state.data, TransientError) or "TransientError" in (state.message or "")


OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # DVC is the only cache: a default-cached Path hashes its spelling, not its content
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
