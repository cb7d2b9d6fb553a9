"""Memory and parameters foretold: exact where they are counted, close where they are measured on one and two layers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Batch, Launch, Optimizer, PrepareParams, TrainParams, Validation
from tasks.ml import attention, fused, loading, memory, methods, optimizers, packing, prediction, unloaded
from tasks.ml.live import peak
from tasks.ml.tuned import Ahead
from tests import runs, tiny

ROOT = Path(__file__).parents[3]
AHEAD = Ahead(10, [[row] for row in runs.ROWS])


@pytest.fixture(scope="module")
def deep_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("deep"), layers=6)


@pytest.mark.parametrize(
    ("targets", "trainable"),
    [(("q_proj", "v_proj"), 4_194_304), (("q_proj", "v_proj", "up_proj", "down_proj"), 11_927_552)],
)
def test_llama_2_7b_is_counted_exactly_without_its_weights(
    tmp_path: Path, targets: tuple[str, ...], trainable: int
) -> None:
    """r (inputs + outputs) a module (arXiv 2106.09685, section 4.2)."""
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ).save_pretrained(tmp_path)
    tuned, held = unloaded.attached(tmp_path, TrainParams(rank=8, targets=targets), AHEAD)
    assert held == "plain"
    assert sum(value.numel() for value in tuned.trainable().values()) == trainable
    assert tuned.runner.model.num_parameters() == 6_738_415_616 + trainable
    assert all(value.is_meta for value in tuned.runner.model.parameters())


def test_a_peak_counts_what_is_alive_at_one_time() -> None:
    there = torch.ones(1000)

    def run() -> torch.Tensor:
        first = there * 2  # 4,000 bytes
        second = torch.cat([first, first])  # 8,000 beside them: the peak
        del first
        view = second[:500]
        view += there[:500]  # in place: nothing new
        return torch.zeros(10, 7)  # as wide as the vocabulary, but not at the peak

    assert (peak(run, 7).total, peak(run, 7).logits) == (12_000, 0)
    assert peak(lambda: torch.zeros(10, 7), 7).logits == 280


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}), ("dora", {}), ("qlora", {}), ("freeze", {"layers": 2}), ("lisa", {"layers": 2}), ("full", {}),
    ("adapter", {}), ("adalora", {}), ("shira", {}), ("trainable_tokens", {"token_indices": [1, 2]}),
]  # fmt: skip


def attached(base: Path, method: str, options: dict[str, Any], dtype: Any = "bfloat16") -> tuple[Any, TrainParams]:
    wanted = runs.params(method, options=options, launch=Launch(dtype=dtype), rank=4)
    torch.manual_seed(wanted.launch.seed)
    chosen, section = methods.find(wanted)
    held = chosen.base(section)
    frozen = loading.load(base, loading.compute_dtype(dtype), held=held, attention=attention.NAME)
    frozen.requires_grad_(False)
    tuned = chosen.attach(frozen, wanted, section, AHEAD)
    fused.fuse(tuned.runner.model)
    return tuned, wanted


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_two_layers_foretell_six(deep_base: Path, method: str, options: dict[str, Any], again: bool) -> None:
    tuned, _ = attached(deep_base, method, options)
    if again:
        memory.recompute(tuned.runner.model)
    pack = packing.pack(runs.ROWS)
    before = torch.get_rng_state()
    with prediction._first_step(tuned):  # pyright: ignore[reportPrivateUsage]
        found = prediction.step(tuned.runner, pack).total
        wanted = prediction._run(tuned.runner, pack).total  # pyright: ignore[reportPrivateUsage]
    assert found == pytest.approx(wanted, rel=0.02)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.grad is None and value.requires_grad for value in tuned.trainable().values())
    assert len(tuned.runner.model.base_model.layers) == 6 and not tuned.runner.model.training


BLIND = [(name, options) for name, options in METHODS if name not in ("adalora", "shira")]


@pytest.mark.parametrize(("method", "options"), BLIND, ids=[name for name, _ in BLIND])
def test_without_weights_the_same_is_foretold(deep_base: Path, method: str, options: dict[str, Any]) -> None:
    tuned, params = attached(deep_base, method, options)
    pack = unloaded._allowed(params, PrepareParams(max_length=64))  # pyright: ignore[reportPrivateUsage]
    wanted = asdict(prediction.of(tuned, pack, params, 0))
    found = unloaded.predict(params, PrepareParams(max_length=64), base=deep_base, chat=deep_base / "none")
    assert found.trainable == sum(value.numel() for value in tuned.trainable().values())
    assert found.packs is None and found.steps is None
    assert found.kept is not None and found.recomputed is not None
    parts = asdict(found.kept)
    assert parts.pop("process") > 1e8 and wanted.pop("process") == 0
    for part, size in parts.items():
        assert size == pytest.approx(wanted[part], rel=0.05), part
    assert found.recomputed.activations < found.kept.activations


@pytest.mark.parametrize(("rank", "most"), [(16, 40e9), pytest.param(64, 48e9, marks=pytest.mark.slow)])
def test_qlora_of_65_b_parameters_is_foretold_to_fit_into_48_gb(tmp_path: Path, rank: int, most: float) -> None:
    """The claim of arXiv 2305.14314, on LLaMA-65B's shape, with rank 64 as there: activations recomputed, 8-bit moments."""
    shape = LlamaConfig(
        vocab_size=32_000, hidden_size=8192, intermediate_size=22_016, num_hidden_layers=80, num_attention_heads=64,
        tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shape.save_pretrained(tmp_path)
    params = TrainParams(
        method="qlora", rank=rank, batch=Batch(micro_tokens=512), launch=Launch(dtype="bfloat16"),
        optimizer=Optimizer(name="paged_adamw_8bit"),
    )  # fmt: skip
    found = unloaded.predict(params, PrepareParams(max_length=512), base=tmp_path, chat=tmp_path / "none")
    assert found.total > 65e9 and found.trainable == 80 * rank * (4 * 2 * 8192 + 3 * (8192 + 22_016))
    assert found.recomputed is not None
    # Without what this process holds from other tests; a step's own process takes about 0.6 GB.
    assert 33e9 < found.recomputed.total - found.recomputed.process + 1e9 < most


def test_a_method_that_looks_at_values_says_so(deep_base: Path) -> None:
    """AdaLoRA divides by its number of ranks in each forward pass; ranks by importance come from gradients."""
    found = unloaded.predict(runs.params("adalora"), PrepareParams(), base=deep_base, chat=deep_base / "none")
    assert found.trainable > 0 and found.kept is None and found.recomputed is None
    ranked = runs.params("lora", options={"allocate": {"by": "gradient"}})
    with pytest.raises(ParamsError, match="looks at the weights before it trains, so only a run can tell"):
        unloaded.attached(deep_base, ranked, AHEAD)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config of a causal language model"):
        unloaded.predict(TrainParams(), PrepareParams(), base=tmp_path, chat=tmp_path)


@pytest.mark.parametrize("name", ["adamw", "paged_adamw_8bit", "adafactor", "lion", "muon"])
def test_an_optimizers_memory_is_known_before(name: Any) -> None:
    tensors = {"matrix": torch.ones(64, 128), "small": torch.ones(8, 16), "vector": torch.ones(5000)}
    made = optimizers.make(Optimizer(name=name), {1.0: tensors})
    for value in tensors.values():
        value.grad = torch.ones_like(value)
    for optimizer in made:
        optimizer.step()
    remembered = optimizers.tensors(made, {value: key for key, value in tensors.items()})
    found = sum(value.nbytes for key, value in remembered.items() if not key.startswith("step."))
    assert optimizers.size(Optimizer(name=name), {key: value.shape for key, value in tensors.items()}) == found


def test_the_kinds_of_memory_follow_the_params(tiny_base: Path) -> None:
    tuned, params = attached(tiny_base, "lora", {})
    pack = packing.pack(runs.ROWS)
    plain = prediction.of(tuned, pack, params, 10**9)
    assert plain.process + plain.weights == 10**9 and plain.best == 0
    assert plain.masters == plain.gradients == plain.optimizer / 2 == 4 * sum(
        value.numel() for value in tuned.trainable().values()
    )  # fmt: skip
    best = prediction.of(tuned, pack, params.model_copy(update={"validation": Validation(keep="best")}), 10**9)
    assert best.best == plain.masters
    tuned, params = attached(tiny_base, "lora", {}, "float32")
    assert prediction.of(tuned, pack, params, 10**9).masters == 0


@pytest.mark.parametrize("method", ["lora", "freeze", "adalora"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients(deep_base: Path, method: str, dropout: float) -> None:
    """To the last bit, on packed rows, through embeddings that need no gradient, and where something is dropped."""
    gradients: list[dict[str, torch.Tensor]] = []
    for again in (False, True):
        tuned, _ = attached(deep_base, method, {"dropout": dropout} if method == "lora" else {})
        if again:
            memory.recompute(tuned.runner.model)
        tuned.runner.model.train()
        with torch.no_grad():  # B starts at zero, and A's gradient with it
            for value in tuned.trainable().values():
                value.add_(0.01 * torch.arange(value.numel(), dtype=torch.float32).sin().view_as(value))
        torch.manual_seed(3)
        tuned.runner.loss_sum(packing.pack(runs.ROWS), 0.0).backward()
        gradients.append({name: value.grad for name, value in tuned.trainable().items() if value.grad is not None})
    kept, recomputed = gradients
    assert kept.keys() == recomputed.keys() and len(kept) >= 14
    assert all(value.any() for value in kept.values())
    assert [name for name in kept if not torch.equal(kept[name], recomputed[name])] == []


@pytest.mark.parametrize("version", ["v1", "v2", "none", "unlimited"])
def test_a_containers_limit_bounds_the_room(tmp_path: Path, version: str) -> None:
    folder = tmp_path / "memory" if version == "v1" else tmp_path
    folder.mkdir(exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == "v1" else ("memory.max", "memory.current")
    if version != "none":
        limit = "max" if version == "unlimited" else "1000000"
        for name, text in zip((*names, "memory.stat"), (limit, "700000", "anon 5\ninactive_file 100000"), strict=True):
            (folder / name).write_text(text + "\n")
    found = list(memory._container(tmp_path))  # pyright: ignore[reportPrivateUsage]
    assert found == ([400000] if version in ("v1", "v2") else [])


def predict(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "predict", *flags]
    return subprocess.run(command, cwd=folder, env=runs.environment(), capture_output=True, text=True)


def test_the_command_tells_it(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.params(tiny_base)))
    absent = predict(tmp_path)
    assert absent.returncode == 4 and "fetch the base first with `dvc repro fetch`" in absent.stderr
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(tiny_base)
    value = json.loads(predict(tmp_path, "--json", "--set", "train.rank=2").stdout)
    assert value["trainable"] == 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert value["steps"] is None and value["kept_bytes"] == sum(value["kept"].values())
    said = predict(tmp_path).stdout
    assert "there is no training set yet" in said and "activations" in said


MEASURE = """
import sys, json
from pathlib import Path
from tasks.core.sections import *
from tasks.ml import adapters
base, chat, work, tokens = sys.argv[1:]
params = TrainParams(batch=Batch(micro_tokens=int(tokens)), validation=Validation(times=1))
print(json.dumps(adapters.train(params, chat=Path(chat), base=Path(base), checkpoints=Path(work), seconds=1e9).measured))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [256, 512, 1024])
def test_the_real_base_takes_what_was_foretold(real_base: Path, tmp_path: Path, tokens: int) -> None:
    """Within three tenths of the peak of the process."""
    from tasks.core.params import Params
    from tasks.prepare import prepare

    tiny.make_raw(tmp_path / "raw", 80)
    chosen = Params.model_validate(tiny.params(real_base, prepare={"pack": {"tokens": 1024}})).prepare
    prepare(chosen, raw=tmp_path / "raw", base=real_base, out=tmp_path / "chat", report=tmp_path / "report")
    command = [sys.executable, "-c", MEASURE, real_base, tmp_path / "chat", tmp_path / "work", str(tokens)]
    done = subprocess.run(command, cwd=ROOT, env=runs.environment(), capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["predicted_memory_bytes"] == pytest.approx(measured["peak_memory_bytes"], rel=0.3)
