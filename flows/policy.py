"""Retries and concurrency: named once, chosen by the kind of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff

from tasks.core.errors import Killed, TransientError

STAGES_AT_ONCE = 1
"""Stages share the machine's cores or its one accelerator; two at once would only slow each other."""


TRIES_AGAIN = 5
"""After 2, 4, 8, 16 and 32 seconds, each half as long again at the most."""

COMEBACKS = 50
"""How often a run that crashed is begun again; one that ends its own process every time must not go on for ever."""


TRIED_AGAIN = (TransientError, Killed)
"""What another try may cure."""


def may_go_better(_task: Task[..., Any], _run: object, state: State[Any]) -> bool:
    """Whether another try may: after the network, throttling or a kill, never after bad data, params or a bad model."""
    return isinstance(state.data, TRIED_AGAIN)


def as_task(function: Callable[..., Any], name: str) -> Any:
    """The function as a Prefect task with the line's policy; `name` is what the UI shows.

    Typed loosely: Prefect's overloads of `submit` know no function that may return a State.
    """
    return Task(
        function,
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,  # DVC is the only cache: a default-cached Path hashes its spelling, not its content
        persist_result=False,
        retries=TRIES_AGAIN,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_go_better,
    )


def task_runner() -> Any:
    """Typed loosely: Prefect's runners are invariant in their futures."""
    return ThreadPoolTaskRunner(max_workers=STAGES_AT_ONCE)
