"""The runner that `tuneline up` serves the deployments with."""

from __future__ import annotations

import datetime

import prefect.runner


class Runner(prefect.runner.Runner):
    """Prefect's. Its health is asked for from the start (PREFECT_RUNNER_SERVER_ENABLE), and until its first poll Prefect's
    answer would be a traceback. As with Prefect's workers, the start counts as a poll: one that then never polls is ill."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = datetime.datetime.now(datetime.UTC)

    @property
    def last_polled(self) -> datetime.datetime | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().last_polled or self._begun
