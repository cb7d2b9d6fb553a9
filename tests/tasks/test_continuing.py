"""Two arrivals: the first version learns the first, the next goes on from it and learns the second, by either way to keep it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from flows import continuing
from tasks.core import layout, manifest, params
from tasks.core.errors import DataError, ModelError, ParamsError
from tasks.core.manifest import Manifest
from tasks.fetch import fetch
from tasks.ml import loading
from tasks.storage.embedded import S3
from tasks.storage.registry import Registry
from tests import tiny
from tests.line import Line, point, registry_environment

ARRIVALS = (60, 60)


def settings(base: Path, **fetched: Any) -> dict[str, dict[str, Any]]:
    return tiny.params(
        base, fetch={"ref": str(base), **fetched}, quantize={"formats": []}, publish={"name": "desk"},
        prepare={"replay": 0.3},
        train={"epochs": 6, "optimizer": {"learning_rate": 0.01}}, evaluate={"max_new_tokens": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def environment(s3: S3, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        values = registry_environment(s3, bucket, tmp_path_factory.mktemp("work"))
        for name, value in values.items():
            patch.setenv(name, value)
        yield values


@pytest.fixture(scope="module")
def first(tiny_base: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Line:
    """desk@v1, from the first arrival."""
    line = Line(tmp_path_factory.mktemp("first") / "workspace", Registry.open(environment))
    assert line.make(ARRIVALS[:1], **settings(tiny_base)) == "desk@v1"
    return line


@pytest.mark.parametrize("keep", ["merged", "frozen"])
def test_the_next_version_learns_what_arrived_since(tmp_path: Path, tiny_base: Path, first: Line, keep: str) -> None:
    line = Line(tmp_path / "workspace", first.registry)
    name = line.make(ARRIVALS, **settings(tiny_base, continue_from="desk@v1", keep=keep))
    facts = manifest.read(line.base).facts
    assert facts["continues"] == {"reference": "desk@v1", "keep": keep, "data": 1}

    known, rows = first.trained(), line.trained()
    replayed = rows & known
    assert 0 < len(replayed) < len(known) and rows - known
    assert manifest.read(line.chat).facts["continues"]["new"] == len(rows - known)

    # The row "base" is the version that is continued: on the rows that it knows it is as good as when it was registered.
    assert line.loss("base", "loss_known") == pytest.approx(first.loss("merged"), rel=1e-4)
    assert first.loss("merged") < first.loss("base")
    assert line.loss("merged", "loss_new") < line.loss("base", "loss_new")
    table = (line.at(layout.RUN_REPORT) / "README.md").read_text()
    assert "Loss, known rows" in table and "Training went on from desk@v1" in table
    version = line.registry.find(name)
    record: Any = version.record
    assert record["base"]["continues"]["reference"] == "desk@v1" and record["params"]["fetch"]["keep"] == keep
    (_assert_merged if keep == "merged" else _assert_frozen)(line, first)


def _assert_merged(line: Line, first: Line) -> None:
    """The base is v1's merged model, byte for byte."""
    assert manifest.read(line.base).files == manifest.read(first.merged).files


def _assert_frozen(line: Line, first: Line) -> None:
    """The weights are the original's, v1's adapter lies beside them, and the result is one LoRA on the original base."""
    files, original = manifest.read(line.base).files, manifest.read(first.base).files
    beside = {f"frozen/{name}": entry for name, entry in manifest.read(first.adapter).files.items()}
    assert files == {**original, **beside}
    assert manifest.read(line.base).facts["content"] == manifest.read(first.base).facts["content"]
    assert json.loads((line.adapter / "adapter_config.json").read_bytes())["r"] == 8
    theirs: Any = PeftModel.from_pretrained(loading.load(first.base, torch.float32), str(line.adapter)).eval()
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        wanted = theirs(input_ids=ids).logits
        found = loading.load(line.merged, torch.float32)(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def bring(base: Path, out: Path, **fetched: Any) -> Manifest:
    return fetch(params.parse(settings(base, **fetched), "test").fetch, out=out)


@pytest.mark.parametrize(
    ("reference", "error", "says"),
    [
        ("desk", ParamsError, r"desk may name another version tomorrow: write desk@vN"),
        ("desk@latest", ParamsError, r"desk@latest may name another version tomorrow"),
        ("desk@v99", ParamsError, r"desk has no version v99"),
        ("nobody@v1", ParamsError, r"there is no model 'nobody'"),
        ("desk@champion", ParamsError, r"desk@champion may name another version tomorrow: write desk@vN"),
        ("desk@v0", ParamsError, r"'desk@v0' names no version"),
    ],
)
def test_a_stage_takes_a_fixed_version_only(
    tmp_path: Path, tiny_base: Path, first: Line, reference: str, error: type[Exception], says: str
) -> None:
    assert first
    with pytest.raises(error, match=says):
        bring(tiny_base, tmp_path / "base", continue_from=reference)
    assert not (tmp_path / "base").exists()


def test_frozen_needs_the_base_that_it_was_made_on(tmp_path: Path, first: Line) -> None:
    other = tiny.make_base(tmp_path / "other", seed=5)
    with pytest.raises(ModelError, match=r"stands on another base than .* set fetch.keep: merged"):
        bring(other, tmp_path / "base", continue_from="desk@v1", keep="frozen")


def test_frozen_needs_a_plain_lora(tmp_path: Path, tiny_base: Path, first: Line) -> None:
    line = Line(tmp_path / "workspace", first.registry)
    values = settings(tiny_base)
    name = line.make(ARRIVALS[:1], **{**values, "train": {**values["train"], "method": "dora"}})
    with pytest.raises(ModelError, match=r"no plain LoRA: its config has use_dora. Set fetch.keep: merged"):
        bring(tiny_base, tmp_path / "base", continue_from=name, keep="frozen")
    assert bring(tiny_base, tmp_path / "base", continue_from=name).facts["continues"]["reference"] == name


def test_a_run_fixes_the_version_and_refuses_to_learn_nothing(tmp_path: Path, tiny_base: Path, first: Line) -> None:
    wanted = params.parse(settings(tiny_base, continue_from="desk"), "test")
    newest = max(version.number for version in first.registry.versions("desk"))
    point(tmp_path, 3)
    assert continuing.pin(wanted, tmp_path).fetch.continue_from == f"desk@v{newest}"
    wanted = params.parse(settings(tiny_base, continue_from="desk@v1"), "test")
    assert continuing.pin(wanted, tmp_path) == wanted
    point(tmp_path, 1)
    with pytest.raises(DataError, match=r"desk@v1 has learned data v1, and here lies v1: nothing is new"):
        continuing.pin(wanted, tmp_path)
    plain = params.parse(settings(tiny_base), "test")
    assert continuing.pin(plain, tmp_path) is plain
