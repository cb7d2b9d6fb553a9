"""The health that Prefect's page says of the runner."""

from __future__ import annotations

import time

from prefect.runner.server import perform_health_check

from flows.runner import Runner


def test_it_is_well_until_its_first_poll_is_overdue() -> None:
    runner = Runner()
    assert perform_health_check(runner, delay_threshold=60)().status_code == 200
    time.sleep(0.01)
    assert perform_health_check(runner, delay_threshold=0)().status_code == 503
