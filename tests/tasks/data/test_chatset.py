"""Packs on disk: what is written is read, a pack at a time, and equal packs give equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import digest
from tasks.data import chatset
from tasks.data.chatset import Packs, PackWriter, Segment

PACKS = st.lists(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50_000), st.booleans()), min_size=1, max_size=9), min_size=1, max_size=4
    ),
    max_size=30,
)


def write(folder: Path, packs: list[list[list[tuple[int, bool]]]]) -> list[list[Segment]]:
    wanted = [
        [
            Segment(f"{p}/{r}", [i for i, _ in row], [mark for _, mark in row], f"task {r % 2}")
            for r, row in enumerate(pack)
        ]
        for p, pack in enumerate(packs)
    ]
    with PackWriter(folder) as writer:
        for pack in wanted:
            ids = np.array([i for segment in pack for i in segment.ids], dtype=np.int32)
            loss = np.array([mark for segment in pack for mark in segment.loss], dtype=bool)
            names, tasks = [segment.id for segment in pack], [segment.task for segment in pack]
            writer.add(names, tasks, [len(segment.ids) for segment in pack], ids, loss)
    return wanted


@given(PACKS, st.integers(1, 5), st.integers(1, 3))
def test_packs_come_back(
    tmp_path_factory: pytest.TempPathFactory, packs: list[list[list[tuple[int, bool]]]], batch: int, batches: int
) -> None:
    folder = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chatset, "PACKS_A_BATCH", batch)
        patch.setattr(chatset, "PACKS_A_SHARD", batch * batches)
        wanted = write(folder / "a", packs)
        write(folder / "b", packs)
    found = Packs(folder / "a")
    assert len(found) == len(wanted) and list(found) == wanted
    if wanted:
        costs = [sum(len(segment.ids) ** 2 for segment in pack) for pack in wanted]
        assert costs[found.heaviest()] == max(costs)
    names = sorted(path.name for path in (folder / "a").iterdir())
    assert len(names) == -(-len(packs) // (batch * batches))
    assert [digest.of_file(folder / "a" / name) for name in names] == [
        digest.of_file(folder / "b" / name) for name in names
    ]


def test_a_pack_that_is_not_there_is_an_index_error(tmp_path: Path) -> None:
    write(tmp_path / "packs", [[[(1, True)]]])
    with pytest.raises(IndexError):
        Packs(tmp_path / "packs")[1]
