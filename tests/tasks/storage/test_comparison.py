"""What lies between two versions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.manifest import FileEntry
from tasks.storage.comparison import Files, compare, leaves
from tasks.storage.model_version import Version, draft
from tests.registries import NOW, record


def version(number: int, files: dict[str, int], **more: Any) -> Version:
    """Files by a byte count, which tells their digests apart."""
    entries = {path: FileEntry(sha256=f"{size:064x}", size=size) for path, size in files.items()}
    made = draft("m", entries, f"work {number}", {**record(number), **more}, NOW)
    return made.model_copy(update={"number": number})


def test_what_differs_is_told_and_nothing_else() -> None:
    before = version(1, {"same": 1, "gone": 20, "other": 3})
    after = version(2, {"same": 1, "new": 5, "other": 4})
    found = compare(before, after)
    assert (found.before, found.after) == ("m@v1", "m@v2")
    assert found.files == Files(added=("new",), removed=("gone",), changed=("other",), bytes=-14)
    assert found.record == {
        "data": {"version": ("v1", "v2"), "rows": (100, 200), "digest": ("1" * 64, "2" * 64)},
        "base": {},
        "git": {"commit": ("1" * 40, "2" * 40)},
        "params": {"train.rank": (8, 16)},
        "metrics": {"merged.exact_match": (0.1, 0.2)},
    }


def test_what_only_one_has_is_told() -> None:
    before, after = version(1, {"f": 1}), version(1, {"f": 1}, metrics={"nf4": {"rouge": [1, 2]}}, base=None)
    found = compare(before, after).record
    assert found["metrics"] == {"merged.exact_match": (0.1, None), "nf4.rouge": (None, [1, 2])}
    assert found["base"] == {"digest": ("b" * 64, None), "ref": ("hub:org/base", None)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["params", "metrics", "base", "git", "data"]), json_values))
def test_a_version_differs_from_itself_in_nothing(said: dict[str, Any]) -> None:
    made = version(1, {"f": 1}, **said)
    found = compare(made, made)
    assert not any(found.record.values()) and found.files == Files((), (), (), 0)


@given(json_values)
def test_leaves_are_no_mappings(value: Any) -> None:
    assert not any(isinstance(leaf, dict) for leaf in leaves(value).values())
