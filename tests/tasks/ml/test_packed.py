"""A packed base answers and learns exactly as the 16-bit base that was unpacked from the same blocks, in its blocks' memory."""

from __future__ import annotations

import functools
import gc
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer

from tasks.core import manifest, weights
from tasks.core.errors import ModelError
from tasks.core.sections import FetchParams
from tasks.fetch import fetch
from tasks.ml import loading, packed
from tasks.ml.export import merge
from tasks.ml.gguf_base import kept
from tasks.ml.gguf_base.blocks import KINDS
from tasks.storage import bases
from tests import tiny, tiny_gguf

KEPT = [kind for kind in KINDS.values() if kind.unpack and kind.elements > 1]
BASES = {
    "llama": {"types": ("Q4_1", "Q4_0", "Q8_0"), "split": "llama-bpe"},
    "qwen2": {"types": ("Q4_1", "Q4_K", "Q6_K"), "split": "qwen2", "tied": False},
    "gpt2": {"types": ("Q8_0", "Q5_0"), "split": "gpt-2"},
}


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(tmp_path_factory.mktemp(request.param), request.param, **BASES[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(tmp_path_factory.mktemp("llama"), "llama", types=("Q4_1",))


def fetched(folder: Path, architecture: str, **options: Any) -> Path:
    file = tiny_gguf.write(folder / "a.gguf", architecture, **options)
    fetch(FetchParams(ref=f"gguf:{file}"), out=folder / "base")
    return folder / "base"


def blocks_of(kind: Any, rows: int, columns: int) -> torch.Tensor:
    values = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    return torch.from_numpy(tiny_gguf.quantised(values, gguf.GGMLQuantizationType[kind.name]))


def ids() -> torch.Tensor:
    return torch.arange(3, 83).reshape(2, 40) % 512


def loss_of(model: Any) -> torch.Tensor:
    torch.manual_seed(0)  # GPT-2 drops out
    return model(input_ids=ids(), labels=ids()).loss


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("at_once", [256, 1 << 20])
def test_unpacking_is_the_references_rounded_to_bfloat16(
    monkeypatch: pytest.MonkeyPatch, kind: Any, at_once: int
) -> None:
    monkeypatch.setitem(packed._AT_ONCE, "cpu", at_once)  # a matrix in one piece, and in pieces with a rest
    blocks = blocks_of(kind, 7, 768)
    wanted = torch.from_numpy(gguf.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind.name])).bfloat16()
    assert torch.equal(packed.unpack(blocks, kind, torch.bfloat16), wanted)
    assert torch.equal(packed.unpack(blocks, kind, torch.float32), wanted.float())


def test_a_layer_is_the_plain_layer() -> None:
    """Output, and the gradients of input and bias, to the last bit; and against finite differences in float64."""
    kind = next(kind for kind in KEPT if kind.name == "Q4_1")
    blocks = blocks_of(kind, 48, 64)
    for dtype in (torch.float32, torch.bfloat16):
        plain = nn.Linear(64, 48, dtype=dtype)
        plain.weight.data = packed.unpack(blocks, kind, dtype)
        layer = packed.PackedLinear(blocks, kind, 64, nn.Parameter(plain.bias.detach().clone()), dtype)
        results = []
        for module in (plain, layer):
            torch.manual_seed(1)
            x = torch.randn(3, 5, 64, dtype=dtype, requires_grad=True)
            out = module(x)
            out.square().sum().backward()
            results.append((out, x.grad, module.bias.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        assert torch.equal(layer.weight, plain.weight) and layer.weight.dtype == dtype
    torch.manual_seed(2)
    bias = nn.Parameter(torch.randn(48, dtype=torch.float64))
    layer = packed.PackedLinear(blocks, kind, 64, bias, torch.float64)
    x = torch.randn(2, 64, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value, _: layer(value), (x, bias))


def test_no_weight_outlives_a_pass() -> None:
    kind = KEPT[0]
    layer = packed.PackedLinear(blocks_of(kind, 48, 64), kind, 64, None, torch.float32)
    saved = list[torch.Tensor]()

    def keep(value: torch.Tensor) -> torch.Tensor:
        saved.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        layer(torch.randn(2, 64, requires_grad=True)).sum().backward()
    assert [value.dtype for value in saved] == [torch.uint8]
    assert saved[0].data_ptr() == layer.blocks.data_ptr()
    assert [name for name, _ in layer.named_parameters()] == [] and list(layer.state_dict()) == ["blocks"]


def assert_same(base: Path, wanted: torch.Tensor, found: torch.Tensor) -> None:
    """To the last bit; but GPT-2's plain layers lie on their side, and some processors sum them in another order."""
    off = max(1e-5, torch.finfo(wanted.dtype).eps * wanted.abs().max().item()) if "gpt2" in str(base) else 0.0
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=off)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_packed_base_is_the_16_bit_base(base: Path, dtype: torch.dtype) -> None:
    plain, other = loading.load(base, dtype), packed.load(base, dtype)
    layers = [module for module in other.modules() if isinstance(module, packed.PackedLinear)]
    assert len(layers) == len(kept.read(base)) == tiny_gguf.LAYERS * (4 if "gpt2" in str(base) else 7)
    with torch.inference_mode():
        assert_same(base, plain(input_ids=ids()).logits, other(input_ids=ids()).logits)
        assert_same(base, loss_of(plain), loss_of(other))
    assert other.get_output_embeddings().weight.dtype == dtype
    assert other.generation_config.to_dict() == plain.generation_config.to_dict()
    assert not other.training and other.dtype == dtype


def test_nf4_is_another_base(llama: Path) -> None:
    dtype = torch.float32
    with torch.inference_mode():
        plain, own, nf4 = (model(input_ids=ids()).logits for model in (
            loading.load(llama, dtype), packed.load(llama, dtype), loading.load(llama, dtype, held="nf4")
        ))  # fmt: skip
    assert torch.equal(own, plain) and (nf4 - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.slow
def test_on_the_real_base_nf4_loses_what_the_blocks_keep(real_base: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(real_base)
    said = " ".join(turn["content"] for row in tiny.sample_rows()[:20] for turn in row["messages"])
    text = tokenizer(said, return_tensors="pt").input_ids[:, :512]
    losses = list[float]()
    for load in (loading.load, packed.load, functools.partial(loading.load, held="nf4")):
        with torch.inference_mode():
            losses.append(load(real_base, torch.bfloat16)(input_ids=text, labels=text).loss.item())
    assert losses[1] == losses[0] and losses[2] > losses[0] + 0.1


def test_what_is_held_are_the_blocks(llama: Path) -> None:
    model = packed.load(llama, torch.bfloat16)
    layers = [module for module in model.modules() if isinstance(module, packed.PackedLinear)]
    numbers = sum(layer.in_features * layer.out_features for layer in layers)
    held = sum(value.nbytes for layer in layers for value in (*layer.buffers(), *layer.parameters()))
    assert held == numbers * 20 / 32  # Q4_1: 5 bits a weight
    others = sum(value.nbytes for value in model.parameters())
    assert others == 2 * (512 * 256 + 5 * 256)  # embeddings and norms
    assert model.get_memory_footprint() - held - others < 1000  # the rotary frequencies
    for kind, size in (("Q4_0", 0.5625), ("Q8_0", 1.0625), ("Q4_K", 0.5625), ("Q6_K", 0.8203125)):
        assert next(found.size / found.elements for found in KEPT if found.name == kind) == size


@pytest.mark.parametrize("dora", [False, True])
def test_pefts_adapters_learn_on_it_as_on_the_16_bit_base(base: Path, tmp_path: Path, dora: bool) -> None:
    """Every gradient of every step, and the saved adapter fits the 16-bit base."""
    tuned = []
    for model in (loading.load(base, torch.float32), packed.load(base, torch.float32)):
        torch.manual_seed(4)
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=dora)
        adapted: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        adapted.enable_input_require_grads()
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        tuned.append(adapted.train())
    wanted = [{name: value for name, value in model.named_parameters() if value.requires_grad} for model in tuned]
    assert wanted[0].keys() == wanted[1].keys() and len(wanted[0]) >= 2 * 8
    for _ in range(2):
        losses = [loss_of(model) for model in tuned]
        for loss in losses:
            loss.backward()
        assert_same(base, *losses)
        for name, value in wanted[0].items():
            other = wanted[1][name].grad
            assert value.grad is not None and other is not None
            assert_same(base, value.grad, other)
        for model in tuned:
            with torch.no_grad():
                for value in filter(lambda value: value.requires_grad, model.parameters()):
                    value.sub_(0.5 * value.grad)
                    value.grad = None
    tuned[1].save_pretrained(str(tmp_path))
    again: Any = PeftModel.from_pretrained(loading.load(base, torch.float32), str(tmp_path))
    with torch.inference_mode():
        before, after = loss_of(loading.load(base, torch.float32)), loss_of(tuned[1].eval())
        assert torch.equal(loss_of(again.eval()), after) and abs(after - before) > 5e-4


def test_looking_at_a_weight_unpacks_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT looks for a device and a type some twenty times a layer; for a large base that would take minutes."""
    unpacked = list[torch.Size]()

    def watched(blocks: torch.Tensor, kind: Any, dtype: torch.dtype, unpack: Any = packed.unpack) -> torch.Tensor:
        unpacked.append(blocks.shape)
        return unpack(blocks, kind, dtype)

    monkeypatch.setattr(packed, "unpack", watched)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(packed.load(llama, torch.bfloat16), config)
    layer = adapted.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert (layer.weight.shape, layer.weight.dtype) == ((1024, 256), torch.bfloat16) and not unpacked
    assert layer.weight.float().norm() > 0 and unpacked == [layer.blocks.shape]
    loss_of(adapted).backward()
    layers = tiny_gguf.LAYERS * 7
    assert len(unpacked) == 1 + 2 * layers - 3  # nothing learns below the first layer's q, k and v
    with pytest.raises(ModelError, match="can't be changed"):
        layer.weight.add_(1)


def test_what_would_write_into_it_is_refused(llama: Path) -> None:
    adapted: Any = get_peft_model(
        packed.load(llama, torch.float32), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for safe in (False, True):
        with pytest.raises(ModelError, match="merge into the 16-bit base"):
            adapted.merge_and_unload(safe_merge=safe)
    for name in ("pissa", "olora"):
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=name)
        with pytest.raises(ModelError, match="leave out initialisations"):
            get_peft_model(packed.load(llama, torch.float32), config)


def test_the_blocks_are_in_the_manifest_and_in_nobodys_way(llama: Path, tmp_path: Path) -> None:
    files = manifest.verify(llama).files
    assert {"packed/blocks.json", "packed/blocks.safetensors"} < files.keys()
    assert bases.describe(llama)["dtypes"] == ["BF16"]
    assert [shard.name for shard in weights.shards(llama)] == ["model.safetensors"]
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(loading.load(llama, torch.float32), config)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "merged").mkdir()
    merge.write(llama, tmp_path / "adapter", tmp_path / "merged", "base")
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        name for name in files if not name.startswith("packed/")
    }


def test_a_base_without_blocks_says_so(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="keeps no packed blocks: only a base fetched from a GGUF file"):
        packed.load(tiny_base, torch.float32)
    plain = fetched(tmp_path, "llama", types=("F16", "BF16"))
    assert not (plain / "packed").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "has the format 2; known here: 1"),
        ({"weights": {"model.layers.0.mlp.up_proj.weight": {"kind": "Q9", "shape": [1, 1]}}}, "is damaged"),
        ({"weights": {}}, "don't agree"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    base = fetched(tmp_path, "llama", types=("Q8_0",))
    index = base / "packed" / "blocks.json"
    index.write_text(json.dumps(json.loads(index.read_bytes()) | change))
    with pytest.raises(ModelError, match=said):
        packed.load(base, torch.float32)


def test_blocks_of_another_model_are_refused(llama: Path, tmp_path: Path) -> None:
    other = fetched(tmp_path, "llama", types=("Q4_1",), head=128)
    for name in ("blocks.json", "blocks.safetensors"):
        (other / "packed" / name).write_bytes((llama / "packed" / name).read_bytes())
    with pytest.raises(ModelError, match=r"k_proj.weight doesn't fit the model"):
        packed.load(other, torch.float32)


def test_loading_takes_the_memory_of_the_blocks(real_base: Path) -> None:
    """SmolLM2's 106 million linear weights: their blocks are 66 MB, in 16 bits they would be 212 MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    model = packed.load(real_base, torch.bfloat16)
    touched = [value.view(torch.uint8).max() for value in model.state_dict().values()]
    peak = memory("VmHWM") - before
    linear = sum(weight.outputs * weight.inputs for weight in kept.read(real_base).values())
    blocks, embeddings = sum(value.nbytes for value in model.buffers()), 2 * 49152 * 576
    assert touched and linear == 106_168_320 and linear * 0.625 <= blocks < linear * 0.63
    assert peak < blocks + embeddings + (60 << 20) < 2 * linear + embeddings


def memory(what: str) -> int:
    """Bytes, as the system tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))
