"""A set of digests in 16 bytes each says what a set says."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import IntegrityError
from tasks.data import seen as module
from tasks.data.seen import Seen


def digest(number: int) -> str:
    """Some end in zero bytes, which numpy's byte strings drop."""
    return ("00" * 12 + "01" + "00" * 19) if number == 0 else hashlib.sha256(str(number).encode()).hexdigest()


@given(st.lists(st.lists(st.integers(0, 50), max_size=60), max_size=8), st.integers(1, 16))
def test_it_is_a_set(batches: list[list[int]], young: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "YOUNG", young)
        whole, model = Seen(), set[int]()
        for batch in batches:
            part, new = Seen(), set[int]()
            for number in batch:
                fresh = digest(number) not in whole and part.add(digest(number))
                assert fresh == (number not in model and number not in new)
                new |= {number} - model
            whole.take(part)
            model |= new
            assert len(whole) == len(model)
        assert [digest(number) in whole for number in range(51)] == [number in model for number in range(51)]


def test_what_is_no_digest_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no SHA-256"):
        Seen().add("abcd")
