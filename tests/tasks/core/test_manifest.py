"""Laws of manifests: round trip, any changed byte is noticed, nothing half-written is visible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import digest, manifest
from tasks.core.errors import IntegrityError
from tasks.core.manifest import FileEntry, Manifest

names = st.lists(
    st.text("abcXYZ019._ -", min_size=1, max_size=8).filter(lambda n: n.strip(". ") == n), min_size=1, max_size=3
)
entries = st.builds(FileEntry, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), size=st.integers(0, 2**40))
plain = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=8), st.booleans(), st.none()), max_size=3
)
manifests = st.builds(
    Manifest, format=st.just(1), step=st.sampled_from(["train", "merge"]), inputs=st.dictionaries(st.text(max_size=8), st.text()),
    params=plain, facts=plain, files=st.dictionaries(names.map("/".join), entries, max_size=3),
)  # fmt: skip


@given(manifests)
def test_a_manifest_reads_back(value: Manifest) -> None:
    assert manifest.parse(value.to_bytes(), "here") == value


@given(manifests, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_changes_the_digest_or_is_refused(value: Manifest, place: int, flip: int) -> None:
    data = bytearray(value.to_bytes())
    data[place % len(data)] ^= flip
    try:
        changed = manifest.parse(bytes(data), "here")
    except IntegrityError:
        return
    assert changed.digest != value.digest or changed == value  # a space for another space says the same


def sealed(folder: Path, text: str = "hello") -> Manifest:
    with manifest.staged(folder) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a.txt").write_text(text)
        return manifest.seal(partial, step="test", inputs={}, params={}, facts={})


def test_a_sealed_folder_verifies(tmp_path: Path) -> None:
    made = sealed(tmp_path / "out")
    assert manifest.verify(tmp_path / "out") == made
    assert manifest.verify(tmp_path / "out").files["sub/a.txt"].sha256 == digest.of_bytes(b"hello")


@pytest.mark.parametrize("harm", ["alter", "remove", "add", "no manifest", "garbage"])
def test_harm_is_named(tmp_path: Path, harm: str) -> None:
    out = tmp_path / "out"
    sealed(out)
    file = out / "sub" / "a.txt"
    if harm == "alter":
        file.write_text("hellO")
    elif harm == "remove":
        file.unlink()
    elif harm == "add":
        (out / "extra").write_text("x")
    elif harm == "no manifest":
        (out / "manifest.json").unlink()
    else:
        (out / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(IntegrityError) as caught:
        manifest.verify(out)
    culprit = {"alter": "sub/a.txt was altered", "remove": "sub/a.txt is missing", "add": "extra is not in"}
    assert culprit.get(harm, "manifest") in str(caught.value)


def test_an_error_leaves_the_old_output(tmp_path: Path) -> None:
    before = sealed(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), manifest.staged(tmp_path / "out") as partial:
        (partial / "b").write_text("half")
        raise ZeroDivisionError
    assert manifest.verify(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half").write_text("x")
    sealed(tmp_path / "out")
    assert set(manifest.verify(tmp_path / "out").files) == {"sub/a.txt"}


def test_a_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(IntegrityError, match="no step made"):
        sealed(tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="link"):
        sealed(tmp_path / "out")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a\\b", "a//b", "./a", "a\0b"])
def test_a_climbing_path_is_refused(name: str) -> None:
    value = {"step": "s", "inputs": {}, "params": {}, "facts": {}, "files": {name: {"sha256": "0" * 64, "size": 1}}}
    with pytest.raises(IntegrityError, match="not a plain relative path"):
        manifest.parse(digest.canonical_json(value), "here")
