"""tuneline's own adapter format at the door: what is damaged, foreign or hostile is one clear error, and changes nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import ModelError
from tasks.ml import loading, own_adapter
from tests import runs, tiny

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    tuned, _ = runs.fit(tiny_base, folder / "work", runs.params("freeze", epochs=1))
    return runs.saved(tuned, folder / "adapter")


def describe(**changes: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        value = json.loads((folder / own_adapter.CONFIG).read_bytes())
        (folder / own_adapter.CONFIG).write_text(json.dumps(value | changes))

    return harm


def text(value: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / own_adapter.CONFIG).write_text(value)

    return harm


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        values = load_file(folder / own_adapter.TENSORS)
        change(values)
        save_file(values, folder / own_adapter.TENSORS)

    return harm


def cut(folder: Path) -> None:
    file = folder / own_adapter.TENSORS
    file.write_bytes(file.read_bytes()[:-10])


def twice(folder: Path) -> None:
    """One name, two places: safetensors' own reader keeps the last."""
    file = folder / own_adapter.TENSORS
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    entry = json.dumps(header[NAME])
    doubled = (json.dumps(header)[:-1] + f', "{NAME}": {entry}}}').encode()
    file.write_bytes(len(doubled).to_bytes(8, "little") + doubled + data[8 + size :])


class Harmful:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("canary"),)


def pickled(folder: Path) -> None:
    (folder / own_adapter.TENSORS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Harmful()))


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer format": (describe(format=2), "has format 2, this version reads format 1: update tuneline"),
    "format of a wrong kind": (describe(format=[1] * 99), "has format [1, 1"),
    "unknown method": (describe(kind="modules", method="reeft"), "no method 'reeft' puts modules into a model"),
    "method that is a path": (describe(kind="modules", method="../../os"), "no method '../../os' puts modules"),
    "method without modules": (describe(kind="modules", method="lora"), "no method 'lora' puts modules into a model"),
    "unknown kind": (describe(kind="pickle"), "adapter.kind: Input should be 'weights', 'modules' or 'parts'"),
    "unknown key": (describe(auto_map={"AutoModel": "x.y"}), "adapter.auto_map: unknown key"),
    "no json": (text("{"), "is not JSON"),
    "a list": (text("[]"), "holds no JSON object"),
    "deep nesting": (text("[" * 100_000), "is not JSON"),
    "endless": (text(" " * (1 << 21) + "{}"), "is not JSON"),
    "other base": (
        describe(base={"architecture": "LlamaForCausalLM", "layers": 30, "hidden": 576, "vocabulary": 9, "shapes": ""}),
        "was made for another base: its layers is 30, here 2",
    ),
    "no tensors file": (lambda folder: (folder / own_adapter.TENSORS).unlink(), "has no adapter_model.safetensors"),
    "pickle": (pickled, "has no adapter_model.safetensors"),
    "empty": (tensors(lambda values: values.clear()), "holds no tensors"),
    "truncated": (cut, "is truncated or has foreign bytes"),
    "a name twice": (twice, "stands twice"),
    "foreign tensor": (tensors(lambda values: values.update(x=torch.zeros(2))), "has 'x', which has no place"),
    "shape": (
        tensors(lambda values: values.update({NAME: torch.zeros(2, 2)})),
        f"{NAME} is (2, 2), the model has (64, 32)",
    ),
    "not a number": (
        tensors(lambda values: values[NAME][3].fill_(float("nan"))),
        f"{NAME} of the adapter is not finite",
    ),
    "infinite": (tensors(lambda values: values[NAME][3].fill_(float("inf"))), f"{NAME} of the adapter is not finite"),
    "whole numbers": (
        tensors(lambda values: values.update({NAME: torch.zeros(64, 32, dtype=torch.int8)})),
        "of the adapter is not finite",
    ),
}


@pytest.mark.parametrize("harm", list(HARMS))
def test_a_harmed_adapter_is_one_error_and_changes_nothing(
    tiny_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    do, says = HARMS[harm]
    do(folder)
    model = runs.model(tiny_base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        loading.with_adapter(model, folder)
    assert says in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("changes", "says"), [({"layers": 3}, "its layers is 2, here 3"), ({"tie": False}, "its shapes")]
)
def test_another_base_is_named(adapter: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    base = tiny.make_base(tmp_path / "base", **changes)
    with pytest.raises(ModelError, match=f"was made for another base: {says}"):
        runs.reloaded(base, adapter)


def test_the_untouched_adapter_loads(tiny_base: Path, adapter: Path) -> None:
    changed = runs.logits(runs.reloaded(tiny_base, adapter))
    assert not torch.allclose(changed, runs.logits(runs.Runner.of(runs.model(tiny_base))))
