"""Addresses of stores: what reads back, and that nothing secret is repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import StorageError
from tasks.storage import address

CANARY = "canary-Secret-7c1e"
segment = st.from_regex(r"[A-Za-z0-9_.=-]+", fullmatch=True).filter(lambda text: text not in (".", ".."))
bucket_name = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True)


@given(bucket_name, st.lists(segment, max_size=4).map("/".join))
def test_an_address_reads_back(bucket: str, prefix: str) -> None:
    assert address.split(f"s3://{bucket}/{prefix}") == (bucket, prefix)


@given(st.text(max_size=60))
def test_any_other_address_is_one_error(text: str) -> None:
    for url in (text, f"s3://{text}"):
        try:
            bucket, prefix = address.split(url)
        except StorageError as error:
            assert "TUNELINE_REGISTRY" in str(error)
        else:
            assert address.split(f"s3://{bucket}/{prefix}") == (bucket, prefix)


@pytest.mark.parametrize(
    "url", ["", "s3://", "s3://ab", "s3://A1b", "http://bucket/x", "s3://bucket/../x", "s3://bucket/a//b", "s3://b?x=y"]
)
def test_malformed_addresses(url: str) -> None:
    with pytest.raises(StorageError, match="set TUNELINE_REGISTRY to s3://BUCKET/PREFIX"):
        address.split(url)


def test_credentials_in_an_address_are_not_repeated() -> None:
    with pytest.raises(StorageError, match="holds credentials") as caught:
        address.split(f"s3://key:{CANARY}@bucket/prefix")
    assert CANARY not in str(caught.value)
