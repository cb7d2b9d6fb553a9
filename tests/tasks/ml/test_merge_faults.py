"""What can go wrong while weights are merged: one clear error each; and memory that does not depend on the model's size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from tasks.core import weights
from tasks.core.errors import ModelError, ResourceError
from tasks.core.weights import INDEX
from tasks.ml.export import merge
from tasks.ml.merging import several
from tests.merging import GPT2, make, train, train_on

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    base = make(folder / "base", "llama")
    return train(
        base, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"), folder / "it"
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make(tmp_path / "base", "llama", max_shard_size="20KB")


def merged(base: Path, adapter: Path, into: Path, dtype: str = "base") -> Path:
    into.mkdir()
    merge.write(base, adapter, into, dtype)
    return into


def file_of(base: Path, name: str) -> Path:
    return base / json.loads((base / INDEX).read_bytes())["weight_map"][name]


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path, base: Path, adapter: Path) -> None:
    file = file_of(base, Q_PROJ)
    file.rename(base / "elsewhere.safetensors")
    with pytest.raises(ModelError, match=rf"places model.* in {file.name}, which is not there"):
        merged(base, adapter, tmp_path / "merged")


def test_an_index_that_names_a_missing_tensor_is_refused(tmp_path: Path, base: Path, adapter: Path) -> None:
    file = file_of(base, Q_PROJ)
    save_file({name: value for name, value in load_file(file).items() if name != Q_PROJ}, file)
    with pytest.raises(ModelError, match=rf"places {Q_PROJ} in {file.name}, which does not hold it"):
        merged(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, base: Path, adapter: Path, text: str) -> None:
    (base / INDEX).write_text(text)
    with pytest.raises(ModelError, match="is no index of weights"):
        merged(base, adapter, tmp_path / "merged")


def test_a_truncated_file_is_refused(tmp_path: Path, base: Path, adapter: Path) -> None:
    file = file_of(base, Q_PROJ)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ModelError, match=rf"{file.name} is truncated"):
        merged(base, adapter, tmp_path / "merged")


def test_a_header_that_gives_a_tensor_too_few_bytes_is_refused(tmp_path: Path) -> None:
    places = {"a": ("F32", (4, 4), 60), "b": ("F32", (1,), 4)}
    (tmp_path / "x.safetensors").write_bytes(weights.compose(places, {}) + bytes(64))
    with pytest.raises(ModelError, match="damaged header: a of F32"):
        weights.header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "dtype", "says"),
    [
        (Q_PROJ, float("nan"), "base", f"{Q_PROJ}: the base's weight is not finite: fetch"),
        (Q_PROJ, float("-inf"), "bfloat16", f"{Q_PROJ}: the base's weight is not finite: fetch"),
        (Q_PROJ, 1e6, "float16", f"{Q_PROJ}: the merged weight is not finite in torch.float16: set merge.dtype"),
        ("lm_head.weight", 1e6, "float16", "lm_head.weight: the merged weight is not finite in torch.float16"),
        ("lm_head.weight", float("nan"), "float16", "lm_head.weight: the base's weight is not finite"),
    ],
)
def test_what_is_not_finite_is_named(
    tmp_path: Path, base: Path, adapter: Path, name: str, value: float, dtype: str, says: str
) -> None:
    file = file_of(base, name)
    tensors = load_file(file)
    tensors[name][5, 7] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=says):
        merged(base, adapter, tmp_path / "merged", dtype)


@pytest.mark.parametrize(("kind", "targets"), [("llama", ["q_proj"]), ("gpt2", GPT2)])
@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_an_adapter_of_another_shape_is_named(tmp_path: Path, kind: str, targets: list[str], half: str) -> None:
    base = make(tmp_path / "base", kind)
    config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    file = train(base, config, tmp_path / "adapter") / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if half in name)
    tensors[name] = torch.cat([tensors[name]] * 2, dim=int(half == "lora_A"))
    save_file(tensors, file)
    layer = name.removeprefix("base_model.model.").partition(".lora_")[0]
    with pytest.raises(ModelError, match=rf"{layer}.weight: the adapter's change is \(\d+, \d+\), the base's weight"):
        merged(base, tmp_path / "adapter", tmp_path / "merged")


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.disk.free", lambda _place: 10_000)
    with pytest.raises(ResourceError, match=r"take \d\d,\d{3} bytes, and 10,000 are free there: the disk is full"):
        merged(base, adapter, tmp_path / "merged")
    assert list((tmp_path / "merged").iterdir()) == []


def test_a_file_system_that_refuses_in_the_middle_is_one_error(tmp_path: Path, base: Path, adapter: Path) -> None:
    limit = file_of(base, Q_PROJ).stat().st_size - 1000
    done = run(base, adapter, tmp_path / "merged", f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))")
    assert done.returncode == 6, done.stderr
    assert "File too large: check the path" in done.stderr and "Traceback" not in done.stderr


def test_what_stays_is_shared_with_the_base(tmp_path: Path, base: Path, adapter: Path) -> None:
    out = merged(base, adapter, tmp_path / "merged")
    before, after = (
        {file.name: file.stat() for file in sorted(folder.glob("*.safetensors"))} for folder in (base, out)
    )
    touched = {file_of(base, f"model.layers.{layer}.{name}.weight").name for layer in (0, 1) for name in NAMES}
    assert 0 < len(touched) < len(before)
    same = {
        name
        for name in before
        if (before[name].st_ino, before[name].st_dev) == (after[name].st_ino, after[name].st_dev)
    }
    assert not same & touched
    if same:  # a file system without shared blocks
        assert same == before.keys() - touched
    assert all((base / name).read_bytes() == (out / name).read_bytes() for name in before.keys() - touched)


NAMES = ("self_attn.q_proj", "mlp.down_proj")


def test_the_order_of_threads_changes_nothing(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TUNELINE_THREADS", threads)
        (tmp_path / threads).mkdir()
        facts = merge.write(base, adapter, tmp_path / threads, "bfloat16")
        made.append((facts, {file.name: file.read_bytes() for file in sorted((tmp_path / threads).iterdir())}))
    assert made[0] == made[1]
    assert 0 < made[0][0]["unchanged"] < 1 and torch.get_num_threads() == 1


def run(base: Path, adapter: Path, into: Path, limited: str) -> subprocess.CompletedProcess[str]:
    """The merge in a process of its own, under a limit that is set after its imports."""
    into.mkdir()
    code = (
        "import resource, sys; from pathlib import Path; from tasks.core import step; from tasks.ml.export import merge\n"
        f"{limited}\n"
        f"write = lambda: merge.write(*map(Path, {[str(base), str(adapter), str(into)]!r}), 'base')\n"
        "sys.exit(step.guarded('merge', write))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


LIMIT = 160 << 20
SIDE = 4096


def test_a_model_larger_than_the_memory_is_merged(tmp_path: Path) -> None:
    """Two files: one of 192 MB that is written anew, one of 2 GB of zeros without a block on the disk that stays."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "config.json").write_text("{}")
    names = [f"model.layers.{number}.mlp.up_proj" for number in range(6)]
    row = torch.randn(SIDE, SIDE).bfloat16()
    save_file({f"{name}.weight": row.clone() for name in names}, base / "a.safetensors", metadata={"format": "pt"})
    size = 2 << 30
    with (base / "b.safetensors").open("wb") as file:
        head = weights.compose({"rest": ("BF16", (size // 2,), size)}, {})
        file.write(head)
        file.truncate(len(head) + size)
    halves = {"lora_A": torch.randn(4, SIDE), "lora_B": torch.randn(SIDE, 4)}
    save_file(
        {
            f"base_model.model.{name}.{half}.weight": value.clone()
            for name in names[:5]
            for half, value in halves.items()
        },
        adapter / "adapter_model.safetensors",
    )
    peft.LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM").save_pretrained(str(adapter))
    whole = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    limited = (
        f"limit = {LIMIT} + int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"assert limit < {whole}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"
    )
    done = run(base, adapter, tmp_path / "merged", limited)
    assert done.returncode == 0, done.stderr
    made = load_file(tmp_path / "merged" / "a.safetensors")
    wanted = (row.float() + 8 / 4 * (halves["lora_B"] @ halves["lora_A"])).bfloat16()
    assert sum(torch.equal(made[f"{name}.weight"], wanted) for name in names) == 5
    assert torch.equal(made[f"{names[5]}.weight"], row)


TARGETS = {
    "llama": peft.VeraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "qwen3_moe": peft.LoraConfig(target_modules=[], target_parameters=["experts.down_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_pefts_other_kinds_are_merged_without_the_model_in_memory(tmp_path: Path, kind: str) -> None:
    """VeRA, and LoRA on experts: a model of zeros without a block on the disk, in one file what changes, in one what stays."""
    shape = {
        "vocab_size": 64, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 8,
        "head_dim": 128, "moe_intermediate_size": 512, "num_experts": 16, "num_experts_per_tok": 2,
    }  # fmt: skip
    base = tmp_path / "base"
    AutoConfig.for_model(kind, **shape, dtype="bfloat16").save_pretrained(base)
    model: Any = several.weightless(base)
    torch.manual_seed(0)
    stored = revert_weight_conversion(model, model.state_dict())
    names = {True: [name for name in stored if re.search(r"(q|experts\.\d+\.down)_proj", name)]}
    names[False] = [name for name in stored if name not in names[True]]
    for changes, mine in names.items():
        sizes = {name: ("BF16", tuple(stored[name].shape), 2 * stored[name].numel()) for name in mine}
        with (base / f"{changes}.safetensors").open("wb") as file:
            file.write(head := weights.compose(sizes, {}))
            file.truncate(len(head) + sum(size for *_, size in sizes.values()))
    train_on(model, TARGETS[kind], tmp_path / "adapter")
    whole = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    limited = (
        "from tasks.ml.updates import by_peft, experts; from transformers import Qwen3MoeForCausalLM, LlamaForCausalLM\n"
        f"limit = {2 * LIMIT} + int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"assert {3 * LIMIT} < {whole}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"
    )
    done = run(base, tmp_path / "adapter", tmp_path / "merged", limited)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "merged" / "True.safetensors")
    changed = [name for name, value in found.items() if value.any()]
    assert len(changed) == (16 if kind == "llama" else 16 * 16)
