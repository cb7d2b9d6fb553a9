"""Large blobs: whoever interferes, a sender keeps the parts that fit, and only whole right bytes become visible."""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import IntegrityError, StorageError
from tasks.storage import blobs
from tasks.storage.multipart import PART, TRIES
from tasks.storage.registry import Registry
from tests import faulty_store
from tests.faulty_store import Answer, Proxy, refusal
from tests.large_blob import ENTRY, KEY, SLICES, Open, assert_whole, is_end, is_part, sent

# Somebody else's parts


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({}, {1, 2, 3, 4}),
        ({2: SLICES[2], 4: SLICES[4]}, {1, 3}),
        ({1: SLICES[1], 2: b"x" * PART, 3: SLICES[3]}, {2, 4}),
        ({1: SLICES[1][:-1], 2: SLICES[2]}, {1, 3, 4}),
        ({1: SLICES[2], 2: SLICES[1]}, {1, 2, 3, 4}),
        ({**SLICES, 5: b"more"}, set[int]()),
    ],
    ids=["none", "some", "altered", "shorter", "exchanged", "beyond the end"],
)
def test_parts_that_fit_are_kept_and_the_others_sent(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open,
    parts: dict[int, bytes], missing: set[int],
) -> None:  # fmt: skip
    told: list[int] = []
    somebody.begin(parts)
    behind.store.upload(KEY, file, ENTRY, told.append)
    assert set(sent(proxy[0])) == missing
    assert_whole(behind)
    assert sum(told) == ENTRY.size


def test_the_newest_upload_of_the_very_key_is_gone_on_with(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open
) -> None:
    somebody.begin({1: SLICES[1]})
    somebody.begin({1: SLICES[1], 2: SLICES[2]}, key=f"{somebody.key}0")
    behind.store.upload(KEY, file, ENTRY)
    assert sent(proxy[0]) == [2, 3, 4]


def listing(change: Callable[[bytes], bytes]) -> faulty_store.Fault:
    """Alters the answers that list parts."""

    def fault(method: str, path: str, answer: Answer) -> Answer:
        if method != "GET" or "uploadId=" not in path:
            return answer
        headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        return replace(answer, headers=headers, body=change(answer.body))

    return fault


OTHER_TAG = listing(lambda body: re.sub(rb"<ETag>[^<]*</ETag>", b"<ETag>&#34;kms&#34;</ETag>", body))


def test_tags_that_are_no_md5_are_not_trusted(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open
) -> None:
    somebody.begin(SLICES)
    proxy[0].fault = OTHER_TAG
    behind.store.upload(KEY, file, ENTRY)
    assert sent(proxy[0]) == [1, 2, 3, 4]
    assert_whole(behind)


def test_a_listed_checksum_counts_more_than_the_tag(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open
) -> None:
    somebody.begin({1: SLICES[1], 2: SLICES[2]})
    digests = [b64encode(zlib.crc32(data).to_bytes(4)) for data in (SLICES[1], b"other")]
    ends = iter(digests)
    proxy[0].fault = listing(
        lambda body: re.sub(rb"</Part>", lambda _: b"<ChecksumCRC32>%s</ChecksumCRC32></Part>" % next(ends), body)
    )
    behind.store.upload(KEY, file, ENTRY)
    assert sent(proxy[0]) == [2, 3, 4]
    assert_whole(behind)


def test_who_may_not_list_uploads_sends_everything(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open
) -> None:
    somebody.begin(SLICES)
    proxy[0].spoil = lambda method, path: (
        refusal(403, "AccessDenied") if method == "GET" and "?uploads" in path else None
    )
    behind.store.upload(KEY, file, ENTRY)
    assert sent(proxy[0]) == [1, 2, 3, 4]


def test_a_changed_file_is_refused_also_where_its_parts_lie_already(
    registry: Registry, file: Path, somebody: Open
) -> None:
    changed = {**SLICES, 4: bytes(reversed(SLICES[4]))}
    file.write_bytes(b"".join(changed.values()))
    somebody.begin(changed)
    with pytest.raises(IntegrityError, match="changed while it was being sent"):
        registry.store.upload(KEY, file, ENTRY)
    assert registry.store.head(KEY) is None
    assert somebody.ids() == []


# Under one's feet


def test_senders_that_share_an_upload_all_succeed(registry: Registry, file: Path, somebody: Open) -> None:
    for _ in range(4):
        somebody.begin({2: SLICES[2]})
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: registry.store.upload(KEY, file, ENTRY), range(4)))
        assert_whole(registry)
        registry.store.delete(KEY)
        somebody.abort()


@pytest.mark.parametrize("moment", [lambda _, path: is_part(path, 2), is_end], ids=["part", "end"])
def test_an_upload_that_is_aborted_meanwhile_begins_anew(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open,
    moment: Callable[[str, str], bool],
) -> None:  # fmt: skip
    told: list[int] = []
    left = [somebody.abort]

    def spoil(method: str, path: str) -> None:
        if moment(method, path) and left:
            left.pop()()

    proxy[0].spoil = spoil
    behind.store.upload(KEY, file, ENTRY, told.append)
    assert left == []
    assert sum(told) == ENTRY.size
    assert_whole(behind)


def test_an_upload_that_somebody_else_ends_is_a_success(
    registry: Registry, behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open
) -> None:
    left = [lambda: registry.store.upload(KEY, file, ENTRY)]

    def spoil(method: str, path: str) -> None:
        if is_part(path, 3) and left:
            left.pop()()

    proxy[0].spoil = spoil
    behind.store.upload(KEY, file, ENTRY)
    assert left == []
    assert_whole(registry)


@pytest.mark.parametrize("refused", [True, False])
def test_a_part_that_is_replaced_before_the_end_does_not_get_in(
    behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open, refused: bool
) -> None:
    """SeaweedFS takes the part of the tag that the end names; Amazon has the newest alone, and refuses."""

    def replaced() -> Answer | None:
        [upload] = somebody.ids()
        somebody.client.upload_part(
            Bucket=somebody.bucket, Key=somebody.key, UploadId=upload, PartNumber=1, Body=b"x" * PART,
            ChecksumAlgorithm="CRC32",
        )  # fmt: skip
        return refusal(400, "InvalidPart") if refused else None

    left = [replaced]
    proxy[0].spoil = lambda method, path: left.pop()() if is_end(method, path) and left else None
    behind.store.upload(KEY, file, ENTRY)
    assert left == []
    assert_whole(behind)


def test_who_is_always_thwarted_gives_up(behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path) -> None:
    proxy[0].spoil = lambda _method, path: refusal(404, "NoSuchUpload") if "partNumber=" in path else None
    with pytest.raises(StorageError, match="NoSuchUpload"):
        behind.store.upload(KEY, file, ENTRY)
    assert sum(method == "POST" and path.endswith("?uploads") for method, path, _ in proxy[0].seen) <= TRIES
    assert behind.store.head(KEY) is None


def test_young_uploads_outlive_a_clearing(registry: Registry, somebody: Open, file: Path) -> None:
    somebody.begin({1: SLICES[1]})
    now = datetime.now(UTC)
    assert registry.store.abort_uploads(blobs.FOLDER, now - timedelta(hours=1)) == 0
    assert somebody.numbers() == {1}
    assert registry.store.abort_uploads(blobs.FOLDER, now + timedelta(hours=1)) == 1
    registry.store.upload(KEY, file, ENTRY)
    assert_whole(registry)
