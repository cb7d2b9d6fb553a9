"""`tuneline analyze` on registered versions, against PEFT's own merge taken apart in float64."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from flows.__main__ import main
from tasks.ml import loading
from tasks.storage.embedded import S3
from tasks.storage.registry import Registry
from tests import tiny
from tests.line import Line, registry_environment

VERSIONS: dict[str, dict[str, Any]] = {
    "desk@v1": {},
    "desk@v2": {"rank": 8, "launch": {"dtype": "float32", "seed": 8}},
    "desk@v3": {"method": "dora"},
    "desk@v4": {"method": "freeze"},
    "desk@v5": {"method": "adapter"},
}
LORA_TENSORS = 14


@pytest.fixture(scope="module")
def lines(s3: S3, bucket: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Line]]:
    """Every version's workspace."""
    with pytest.MonkeyPatch.context() as patch:
        environment = registry_environment(s3, bucket, tmp_path_factory.mktemp("work"))
        for name, value in environment.items():
            patch.setenv(name, value)
        made: dict[str, Line] = {}
        for name, train in VERSIONS.items():
            line = Line(tmp_path_factory.mktemp("line") / "workspace", Registry.open(environment))
            values = tiny.params(
                tiny_base, fetch={"ref": str(tiny_base)}, quantize={"formats": []}, publish={"name": "desk"},
                train={"epochs": 2, "optimizer": {"learning_rate": 0.01}, **train}, evaluate={"max_new_tokens": 1},
            )  # fmt: skip
            assert line.make((60,), **values) == name
            made[name] = line
        yield made


def analyze(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["analyze", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def dense(line: Line) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(W, dW) by name in float64, from PEFT's merge in float32."""
    before = {name: value.double() for name, value in loading.load(line.base, torch.float32).state_dict().items()}
    tuned: Any = PeftModel.from_pretrained(loading.load(line.base, torch.float32), str(line.adapter))
    after = {name: value.double() for name, value in tuned.merge_and_unload().state_dict().items()}
    return {name: (before[name], after[name] - before[name]) for name in before if not before[name].equal(after[name])}


@pytest.mark.parametrize(("name", "rank"), [("desk@v1", 4), ("desk@v2", 8), ("desk@v3", 32)])
def test_every_number_is_that_of_the_dense_change(
    lines: dict[str, Line], capsys: pytest.CaptureFixture[str], name: str, rank: int
) -> None:
    line = lines[name]
    found = {each["name"]: each for each in analyze(capsys, name, "--base", str(line.base))["tensors"]}
    wanted = dense(line)
    assert found.keys() == wanted.keys() and len(found) == LORA_TENSORS
    for key, (weight, change) in wanted.items():
        each, count = found[key], min(rank, *weight.shape)
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        shares = s[:count] / s[:count].sum()
        own = (u[:, :count].mT @ weight @ v[:count].mT).norm().item()
        assert each["directions"] == count and each["shape"] == list(weight.shape)
        assert each["change"] == pytest.approx(change.norm().item(), rel=1e-4)
        assert each["relative"] == pytest.approx((change.norm() / weight.norm()).item(), rel=1e-4)
        assert each["effective_rank"] == pytest.approx(torch.special.entr(shares).sum().exp().item(), rel=1e-2)
        assert each["own"] == pytest.approx(own, rel=1e-2)
        assert each["top"] == pytest.approx(torch.linalg.svdvals(weight)[:count].norm().item(), rel=1e-4)
        assert each["amplification"] == pytest.approx(change.norm().item() / own, rel=1e-2)


def right(line: Line, name: str) -> torch.Tensor:
    """The right singular vectors of a layer's A, (r, inputs)."""
    halves = load_file(line.adapter / "adapter_model.safetensors")
    a = halves[f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight"]
    return torch.linalg.svd(a.double(), full_matrices=False)[2]


def test_two_versions_share_what_the_papers_formula_says(
    lines: dict[str, Line], capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze(capsys, "desk@v1", "desk@v2", "--base", str(lines["desk@v1"].base))["similarity"]
    assert len(found["layers"]) == LORA_TENSORS and len(found["grid"]) == 4 and len(found["grid"][0]) == 8
    grid = torch.zeros(4, 8, dtype=torch.float64)
    for layer in found["layers"]:
        assert layer["of"] == "A"
        first, second = (right(lines[name], layer["name"]) for name in ("desk@v1", "desk@v2"))
        phi = [(first[:k] @ second[:k].mT).norm().square().item() / k for k in range(1, 5)]
        assert layer["phi"] == pytest.approx(phi)
        assert layer["chance"] == pytest.approx([k / first.shape[1] for k in range(1, 5)])
        for i in range(4):
            for j in range(8):
                grid[i, j] += (first[: i + 1] @ second[: j + 1].mT).norm().square() / (min(i, j) + 1) / LORA_TENSORS
    torch.testing.assert_close(torch.tensor(found["grid"], dtype=torch.float64), grid)


def test_a_version_shares_all_with_itself_whatever_its_method(
    lines: dict[str, Line], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, of in (("desk@v3", "A"), ("desk@v4", "dW")):
        found = analyze(capsys, name, name, "--base", str(lines[name].base))["similarity"]
        assert {layer["of"] for layer in found["layers"]} == {of}
        assert [phi for layer in found["layers"] for phi in layer["phi"] if phi != pytest.approx(1, rel=1e-5)] == []


def test_whole_weights_are_analysed_too(lines: dict[str, Line], capsys: pytest.CaptureFixture[str]) -> None:
    line = lines["desk@v4"]
    before, after = (loading.load(folder, torch.float32).state_dict() for folder in (line.base, line.merged))
    found = {each["name"]: each for each in analyze(capsys, "desk@v4", "--base", str(line.base))["tensors"]}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and moved <= found.keys()
    for name, each in found.items():
        assert each["change"] == pytest.approx((after[name] - before[name]).norm().item(), rel=1e-4)
        assert (each["effective_rank"] is None) == (before[name].ndim == 1)


def test_the_terminal_shows_tables_and_the_folder_gets_pictures(
    lines: dict[str, Line], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = str(lines["desk@v1"].base)
    for out in ("a", "b"):
        assert main(["analyze", "desk@v1", "desk@v2", "--base", base, "--out", str(tmp_path / out)]) == 0
    told = capsys.readouterr().out
    assert "14 tensors changed" in told and "... and 2 more" in told
    assert "q_proj" in told and "shared with desk@v2: phi(k, k) of A over 14 matrices" in told
    pictures = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert pictures == ["amplification.svg", "effective_rank.svg", "relative.svg", "similarity.svg"]
    for name in pictures:
        picture = (tmp_path / "a" / name).read_bytes()
        assert picture == (tmp_path / "b" / name).read_bytes()
        assert b"var(--" not in picture and ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"


def test_versions_on_different_bases_are_compared_by_their_factors(
    lines: dict[str, Line], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = lines["desk@v1"]
    line, values = Line(tmp_path / "workspace", first.registry), json.loads(json.dumps(tiny.params(first.base)))
    values["fetch"] = {"ref": str(first.base), "continue_from": "desk@v1"}
    values["quantize"]["formats"], values["publish"] = [], {"name": "next"}
    name = line.make((60, 60), **values)
    found = analyze(capsys, name, "desk@v2", "--base", str(line.base))["similarity"]
    assert len(found["layers"]) == LORA_TENSORS
    assert main(["analyze", name, "--base", str(first.base)]) == 4
    assert f"{name} was made on another base than" in (said := capsys.readouterr().err)
    assert "--base has to be that of the merged model of desk@v1" in said
    assert main(["analyze", name, "desk@v4", "--base", str(line.base)]) == 4
    assert "only LoRA and its kin can be compared then" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["desk@v5", "--base", "BASE"], 4, "no change of weights to analyse: adapter brings modules of its own"),
        (["desk@v1", "--base", "nowhere"], 4, "nowhere is no base model: --base has to be the folder of"),
        (["desk@v99", "--base", "BASE"], 2, "desk has no version v99"),
        (["desk@v1", "--base", "BASE", "--out", "FILE"], 2, "is a file; name a folder"),
    ],
)
def test_what_can_t_be_analysed_is_one_sentence(
    lines: dict[str, Line],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    (tmp_path / "file").touch()
    places = {"BASE": str(lines["desk@v1"].base), "FILE": str(tmp_path / "file")}
    assert main(["analyze", *(places.get(word, word) for word in arguments)]) == code
    assert says in capsys.readouterr().err
