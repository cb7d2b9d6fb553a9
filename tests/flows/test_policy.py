"""What is tried again, and what never is."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prefect.states import Failed

from flows import policy
from tasks.core.errors import KINDS, Killed, TransientError


@pytest.mark.parametrize("kind", KINDS.values())
def test_only_a_kill_and_what_passes_by_itself_are_tried_again(kind: type[Exception]) -> None:
    state = Failed(data=kind("why"), message=f"Task run encountered an exception {kind.__name__}: why")
    found = policy.may_go_better(cast("Any", None), None, state)
    assert found == (kind in (TransientError, Killed))


def test_an_error_of_somebody_else_is_not_tried_again() -> None:
    assert not policy.may_go_better(cast("Any", None), None, Failed(data=ValueError("why"), message="ValueError: why"))
