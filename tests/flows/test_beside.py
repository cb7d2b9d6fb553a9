"""A whole run of a method that can't be merged: the line goes through, and every reader of its results is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core import manifest
from tests.project import Project

WHY = "adapter brings modules of its own, which the base has no place for"


@pytest.mark.slow  # its parts: tests/tasks/test_beside.py
def test_a_method_that_can_t_be_merged_goes_through_the_line(
    tmp_path: Path, tiny_base: Path, services: dict[str, str]
) -> None:
    project = Project(
        tmp_path / "project", tiny_base, services,
        publish={"name": "beside"}, train={"method": "adapter"}, quantize={"formats": ["nf4", "gguf-f16"]},
    )  # fmt: skip
    project("tuneline", "data", "ingest", "data/sample")
    ran = project("tuneline", "run")
    assert f"gguf-f16: not made: gguf-f16 has no room for an adapter beside the weights, and {WHY}" in _flat(ran.stdout)
    assert f"merged: not merged, the adapter stands beside its base: {WHY}" in _flat(ran.stdout)
    assert "Data and pipelines are up to date" in project("dvc", "repro").stdout

    shown = project("tuneline", "models", "show", "beside@v1").stdout
    assert f"not made: gguf-f16 has no room for an adapter beside the weights, and {WHY}" in shown
    pulled = project("tuneline", "models", "pull", "beside@v1", "--part", "nf4", "--to", str(tmp_path / "nf4"))
    assert "the adapter stands beside its base" in pulled.stdout
    assert manifest.verify(tmp_path / "nf4").facts["merged"] is False
    assert (tmp_path / "nf4" / "adapter" / "tuneline_adapter.json").is_file()
    listed = json.loads(project("tuneline", "models", "show", "beside@v1", "--json").stdout)["version"]["files"]
    assert not [name for name in listed if name.startswith("gguf-f16/")], "what was not made is not published"
    metrics = json.loads(project("tuneline", "models", "show", "beside@v1", "--json").stdout)["version"]["record"][
        "metrics"
    ]
    assert metrics.keys() == {"base", "adapter", "merged", "nf4"}


def _flat(text: str) -> str:
    """Without the line breaks that fit it to the terminal."""
    return " ".join(text.split())
