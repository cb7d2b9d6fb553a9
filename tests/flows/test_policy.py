"""What is tried again, and what never is."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prefect.states import Failed

from flows import policy
from tasks.core.errors import KINDS, Killed, TransientError


@pytest.mark.parametrize("kind", KINDS.values())
def test_only_a_kill_and_what_passes_by_itself_are_tried_again(kind: type[Exception]) -> None:
    state = Failed(data=kind("why"), message="why")
    found = policy.may_go_better(cast("Any", None), None, state)
    assert found == (kind in (TransientError, Killed))


@pytest.mark.parametrize("message", ["ValueError: why", "merge: the row says Killed", "a TransientError, it says"])
def test_words_alone_are_not_tried_again(message: str) -> None:
    for data in (ValueError(message), None):
        assert not policy.may_go_better(cast("Any", None), None, Failed(data=data, message=message))
