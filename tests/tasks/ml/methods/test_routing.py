"""X-LoRA: gates, losses and answers are PEFT's own, and a saved adapter holds all it needs."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from safetensors.torch import load_file, save_file

from tasks.core import manifest
from tasks.core.errors import ModelError, ParamsError
from tasks.core.params import Params
from tasks.core.sections import TrainParams
from tasks.core.standing import Standing
from tasks.data.chatset import Segment
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.merge import merge
from tasks.ml import attention, experts, loading, memory, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.layers import routed
from tasks.ml.tuned import Ahead, Runner, Tuned
from tasks.prepare import prepare
from tasks.quantize import quantize
from tasks.train import train
from tests import method_cases, runs, tiny
from tests.tiny import FAMILIES, Family

Bases = dict[Family, Path]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"layerwise": True, "depth": 3, "size": 16, "temperature": 0.5},
    {"top_k": 1, "weight": 2.0},
]


def row(number: int, length: int, alike: int = 0) -> Segment:
    ids = [place + 50 if place < alike else (number * 31 + place * 7) % 300 + 3 for place in range(length)]
    return Segment(str(number), ids, [place >= length - 4 for place in range(length)])


ROWS = [row(1, 9), row(2, 20), row(3, 5), row(4, 14)]


def model(base: Path, kernel: str = attention.NAME, dtype: torch.dtype = torch.float32) -> Any:
    return loading.load(base, dtype, attention=kernel).requires_grad_(False)


def asked(base: Path, **options: Any) -> TrainParams:
    given = {"adapters": method_cases.experts(base), **options}
    return method_cases.PARAMS.model_copy(update={"method": "xlora", "options": given})


def attach(base: Path, *, loud: bool = True, **options: Any) -> Tuned:
    params = asked(base, **options)
    found, chosen = methods.find(params)
    torch.manual_seed(3)
    tuned = found.attach(model(base), params, chosen, Ahead(4, [[row] for row in ROWS]))
    if loud:  # gates that differ from token to token
        with torch.no_grad():
            for value in tuned.trainable().values():
                value.mul_(5)
    return tuned


def pefts(base: Path, saved: Path, options: dict[str, Any]) -> Any:
    """PEFT's X-LoRA of the saved LoRAs, with the saved router in its classifier. (Names that are not numbers, and its
    own way to save a classifier, don't work in PEFT 0.21.)"""
    bare = model(base, "eager")
    bare.config.use_cache = False
    config = XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=32,
        adapters={str(number): str(saved / "experts" / name) for number, name in enumerate(("billing", "tech"))},
        layerwise_scalings=options.get("layerwise", False), softmax_temperature=options.get("temperature", 1.0),
        top_k_lora=options.get("top_k"), global_scaling_weight=options.get("weight", 1.0),
        xlora_depth=options.get("depth", 1), xlora_size=options.get("size", 1), xlora_dropout_p=0.0,
    )  # fmt: skip
    made: Any = get_peft_model(bare, config)
    ours = load_file(saved / "adapter_model.safetensors")
    theirs = [value for value in made.base_model.internal_xlora_classifier.layers if isinstance(value, torch.nn.Linear)]
    # Between two linear layers we count a dropout that PEFT leaves out where it drops nothing.
    numbers = sorted({int(name.split(".")[2]) for name in ours})
    assert len(numbers) == len(theirs) == options.get("depth", 1)
    with torch.no_grad():
        for number, layer in zip(numbers, theirs, strict=True):
            layer.weight.copy_(ours[f"router.steps.{number}.weight"])
            layer.bias.copy_(ours[f"router.steps.{number}.bias"])
    return made.eval()


def pefts_loss(peft: Any, row: Segment) -> torch.Tensor:
    """Summed over the targets, by PeftModel's own forward."""
    labels = torch.tensor([[token if loss else -100 for token, loss in zip(row.ids, row.loss, strict=True)]])
    ids = torch.tensor([row.ids])
    return peft(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss * sum(row.loss)


def test_peft_itself_saves_no_router(tiny_bases: Bases, tmp_path: Path) -> None:
    """So that the format is no more our own than it must be."""
    attach(tiny_bases["llama"]).save(tmp_path)
    pefts(tiny_bases["llama"], tmp_path, {}).save_pretrained(tmp_path / "theirs")
    assert load_file(tmp_path / "theirs" / "adapter_model.safetensors") == {}


@pytest.mark.parametrize("family", FAMILIES[:3])  # PEFT 0.21 finds no experts in a GPT-2
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "layerwise", "top_k"])
def test_packed_rows_have_pefts_own_loss_and_gradients(
    tiny_bases: Bases, tmp_path: Path, family: Family, options: dict[str, Any]
) -> None:
    tuned = attach(tiny_bases[family], **options)
    tuned.save(tmp_path)
    theirs = pefts(tiny_bases[family], tmp_path, options)
    found = tuned.runner.loss_sum(packing.pack(ROWS), 0.0)
    wanted = torch.stack([pefts_loss(theirs, row) for row in ROWS]).sum()
    without = packing.loss_sum(model(tiny_bases[family]), packing.pack(ROWS)).item()
    assert math.isclose(found.item(), wanted.item(), rel_tol=1e-5)
    assert not math.isclose(found.item(), without, rel_tol=1e-3)
    found.backward()
    wanted.backward()
    gradients = [value.grad for value in theirs.parameters() if value.grad is not None]
    ours = tuned.trainable()
    assert len(gradients) == len(ours) == 2 * options.get("depth", 1)
    assert all(name.startswith("router.steps.") for name in ours)
    for value, gradient in zip(ours.values(), gradients, strict=True):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(value.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_layer_s_mixture_and_its_gradient_are_the_formula_s() -> None:
    """sum over e of softmax(h U / t)_e w s_e B_e A_e x, in float64; the first expert leaves the layer alone."""
    torch.manual_seed(0)
    pairs = {
        number: experts.Pair(torch.randn(rank, 6), torch.randn(7, rank), scale)
        for number, rank, scale in ((1, 2, 0.5), (2, 3, 4.0))
    }
    router = routed.Router(
        5, 3, 1, routed.Gating(0.7, None, 1.5), depth=1, size=1, dropout=0.0, device=torch.device("cpu")
    )
    layer = routed.Experts(pairs, 0, torch.empty(0))
    states, x, above = torch.randn(2, 4, 5), torch.randn(2, 4, 6), torch.randn(2, 4, 7)
    (layer(x, router(states)[..., 0, :]) * above).sum().backward()
    weight, bias = (value.detach().double().requires_grad_() for value in router.parameters())
    gates = 1.5 * torch.softmax((states.double() @ weight.T + bias) / 0.7, -1)
    parts = [
        gates[..., number, None] * pair.scale * (x.double() @ pair.a.double().T @ pair.b.double().T)
        for number, pair in pairs.items()
    ]
    torch.testing.assert_close(layer(x, router(states)[..., 0, :]).double(), sum(parts), rtol=1e-4, atol=1e-5)
    (sum(parts) * above.double()).sum().backward()
    for value, wanted in zip(router.parameters(), (weight, bias), strict=True):
        assert value.grad is not None and wanted.grad is not None
        torch.testing.assert_close(value.grad.double(), wanted.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_begin_alike_share_their_beginning(tiny_bases: Bases, family: Family) -> None:
    rows = [row(number, length, alike=10) for number, length in ((1, 15), (2, 22), (3, 16))]
    tuned = attach(tiny_bases[family], layerwise=True)
    assert tuned.runner.shares == (family != "gpt2")
    with torch.no_grad():
        together = tuned.runner.loss_sum(packing.pack(rows, share=True), 0.0).item()
        apart = sum(tuned.runner.loss_sum(packing.pack([row]), 0.0).item() for row in rows)
    assert math.isclose(together, apart, rel_tol=1e-6)
    assert not attach(tiny_bases[family], depth=2, size=8, dropout=0.1).runner.shares


def test_activations_that_are_computed_again_have_the_same_gradients(tiny_bases: Bases) -> None:
    found: list[list[torch.Tensor | None]] = []
    for again in (False, True):
        tuned = attach(tiny_bases["qwen"], layerwise=True)
        if again:
            memory.recompute(tuned.runner.model)
        tuned.runner.model.train()
        tuned.runner.loss_sum(packing.pack(ROWS), 0.0).backward()
        found.append([value.grad for value in tuned.trainable().values()])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("family", FAMILIES[1:])  # whatever the tiny Llama reads, it repeats its last token
def test_an_answer_is_the_same_alone_among_others_without_cache_and_from_peft(
    tiny_bases: Bases, tmp_path: Path, family: Family
) -> None:
    attach(tiny_bases[family], weight=3.0).save(tmp_path)
    runner = loading.with_adapter(model(tiny_bases[family], "sdpa"), tmp_path)
    prompts = [row.ids for row in (*ROWS, row(9, 17))]
    together = generate(runner.generate, prompts)
    assert together == [generate(runner.generate, [prompt])[0] for prompt in prompts]
    assert together == generate(runner.generate, prompts, use_cache=False)
    assert together != generate(model(tiny_bases[family], "sdpa").generate, prompts)
    if family != "gpt2":
        theirs = pefts(tiny_bases[family], tmp_path, {"weight": 3.0})
        assert together == [generate(theirs.generate, [prompt], use_cache=False)[0] for prompt in prompts]


def generate(how: Callable[..., Any], prompts: list[list[int]], **options: Any) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = how(
            input_ids=ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0,
            **options,
        )  # fmt: skip
    return out[:, width:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_needs_nothing_else_wherever_it_lies(tiny_bases: Bases, tmp_path: Path, family: Family) -> None:
    sources = {name: shutil.copytree(folder, tmp_path / name) for name, folder in given(tiny_bases[family]).items()}
    tuned = attach(tiny_bases[family], adapters={name: str(folder) for name, folder in sources.items()}, layerwise=True)
    from_elsewhere = attach(
        tiny_bases[family], adapters=dict(reversed(given(tiny_bases[family]).items())), layerwise=True
    )
    assert tuned.facts == from_elsewhere.facts and set(tuned.facts["experts"]) == {"billing", "tech"}
    with torch.no_grad():
        wanted = tuned.runner.loss_sum(packing.pack(ROWS), 0.0).item()
    first, second = runs.files(tuned, tmp_path / "first"), runs.files(from_elsewhere, tmp_path / "second")
    assert first == second
    assert set(first) == {
        "tuneline_adapter.json", "adapter_model.safetensors",
        *(f"experts/{name}/{file}" for name in ("billing", "tech") for file in experts.FILES),
    }  # fmt: skip
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content or b"pytest" in content]
    for folder in sources.values():
        shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "first", tmp_path / "elsewhere" / "adapter")
    again = loading.with_adapter(model(tiny_bases[family]), Path(moved))
    with torch.no_grad():
        assert again.loss_sum(packing.pack(ROWS), 0.0).item() == wanted
    for name, folder in given(tiny_bases[family]).items():  # each of them is still what it was
        assert logits(tiny_bases[family], Path(moved) / "experts" / name).equal(
            logits(tiny_bases[family], Path(folder))
        )


def given(base: Path) -> dict[str, str]:
    return method_cases.experts(base)


def logits(base: Path, adapter: Path) -> torch.Tensor:
    with torch.no_grad():
        return PeftModel.from_pretrained(model(base, "eager"), str(adapter))(input_ids=torch.arange(3, 20)[None]).logits


def test_a_saved_adapter_that_was_altered_is_refused(tiny_bases: Bases, tmp_path: Path) -> None:
    base = tiny_bases["llama"]
    attach(base).save(tmp_path)
    file = tmp_path / "tuneline_adapter.json"
    text = file.read_text()
    for wrong in ("../billing", "experts/..", "/experts/billing"):
        file.write_text(text.replace("experts/billing", wrong))
        with pytest.raises(ModelError, match=r"is no folder in experts/"):
            loading.with_adapter(model(base), tmp_path)
    file.write_text(text)
    with pytest.raises(ModelError, match="made for another base"):
        loading.with_adapter(model(tiny_bases["gpt2"]), tmp_path)
    shutil.rmtree(tmp_path / "experts" / "tech")
    with pytest.raises(ModelError, match="tech has no adapter_config.json"):
        loading.with_adapter(model(base), tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapters": {"billing": "/a"}}, "train.options.adapters: Dictionary should have at least 2 items"),
        ({"adapters": {"billing": "a", "tech": "/b"}}, "'a' is no absolute path"),
        ({"adapters": {"../a": "/a", "tech": "/b"}}, "should match pattern"),
        ({"top_k": 3}, "top_k=3 of 2 adapters: choose fewer"),
        ({"topk": 1}, "train.options.topk: unknown key; did you mean 'top_k'?"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(TrainParams(method="xlora", options={"adapters": {"billing": "/a", "tech": "/b"}, **options}))
    assert says in str(caught.value)


def test_a_run_does_not_go_on_with_other_adapters(tiny_bases: Bases, tmp_path: Path) -> None:
    sources = {name: shutil.copytree(folder, tmp_path / name) for name, folder in given(tiny_bases["llama"]).items()}
    adapters = {name: str(folder) for name, folder in sources.items()}
    params = asked(tiny_bases["llama"], adapters=adapters)
    calls = list[Any]()

    def until_the_second(_moment: Any) -> tuple[()]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ()

    tuned = dataclasses.replace(attach(tiny_bases["llama"], adapters=adapters), after=until_the_second)
    with pytest.raises(KeyboardInterrupt):
        training.fit(tuned, [[row] for row in ROWS], ROWS, params, Checkpoints(tmp_path / "kept", 0))
    _halve(sources["tech"] / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="an adapter's folder has changed since this run began"):
        changed = attach(tiny_bases["llama"], adapters=adapters)
        training.fit(changed, [[row] for row in ROWS], ROWS, params, Checkpoints(tmp_path / "kept", 0))


def _halve(file: Path) -> None:
    save_file({name: value / 2 for name, value in load_file(file).items()}, file)


def test_it_goes_through_the_line_beside_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path / "work"))
    options = {"method": "xlora", "options": {"adapters": given(tiny_base)}, "launch": {"dtype": "auto"}}
    params = Params.model_validate(tiny.params(tiny_base, train=options))
    chat, base, adapter = tmp_path / "chat", tmp_path / "base", tmp_path / "adapter"
    fetch(params.fetch, out=base)
    tiny.make_raw(tmp_path / "raw")
    prepare(params.prepare, raw=tmp_path / "raw", base=base, out=chat, report=tmp_path / "data-report")
    trained = train(params.train, chat=chat, base=base, out=adapter, report=tmp_path / "report")
    merged = merge(params.merge, base=base, adapter=adapter, chat=chat, out=tmp_path / "merged")
    assert "not merged, the adapter stands beside its base: X-LoRA mixes" in str(Standing.of(merged).note)
    assert {name.removeprefix("adapter/") for name in merged.files if name.startswith("adapter/")} == set(trained.files)
    quantize(params.quantize, format="nf4", merged=tmp_path / "merged", chat=chat, out=tmp_path / "nf4")
    assert {f"adapter/{name}" for name in trained.files} <= set(manifest.verify(tmp_path / "nf4").files)
    losses: dict[str, float] = {}
    for target in ("base", "adapter", "merged", "nf4"):
        out = tmp_path / f"judged-{target}"
        evaluate(
            params.evaluate, target=target, chat=chat, base=base, model=tmp_path / target, suites=tiny.SUITES, out=out
        )
        losses[target] = json.loads((out / "metrics.json").read_bytes())["loss"]
    assert losses["merged"] == losses["adapter"] != losses["base"]
    assert losses["nf4"] != losses["base"]


def test_a_bfloat16_base_keeps_its_router_in_float32(tiny_bases: Bases, tmp_path: Path) -> None:
    params = asked(tiny_bases["qwen"], depth=2, size=8)
    found, options = methods.find(params)
    tuned = found.attach(model(tiny_bases["qwen"], dtype=torch.bfloat16), params, options, Ahead(4, ()))
    assert all(value.dtype == torch.float32 for value in tuned.trainable().values())
    tuned.save(tmp_path)
    again: Runner = loading.with_adapter(model(tiny_bases["qwen"], dtype=torch.bfloat16), tmp_path)
    assert training.mean_loss(again, ROWS) == training.mean_loss(tuned.runner, ROWS)


def test_arrow_is_absent_because_nothing_of_pefts_trains(tiny_bases: Bases) -> None:
    with pytest.raises(ParamsError, match="train.method=arrow: PEFT has it, tuneline has not: nothing of it trains"):
        methods.find(TrainParams(method="arrow"))
    folders, shared = list(given(tiny_bases["qwen"]).values()), ArrowConfig(top_k=1)
    arrow: Any = create_arrow_model(model(tiny_bases["qwen"], "eager"), [folders[0], folders[0]], shared)
    ids = torch.arange(3, 20)[None]
    assert not arrow(input_ids=ids, labels=ids).loss.requires_grad
    arrow.add_adapter("fresh", LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    routed_layers = [module for module in arrow.modules() if type(module).__name__ == "ArrowLoraLinearLayer"]
    assert sum("fresh" in module.task_adapter_names for module in routed_layers) == 2  # the q_proj of two layers
