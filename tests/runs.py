"""Short trainings of a method on a tiny base: as they are, killed and resumed, saved and loaded again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.sections import Batch, Launch, TrainParams
from tasks.data.chatset import Segment
from tasks.data.tokens import ChatTokenizer
from tasks.ml import fused, loading, memory, methods, packing, serving, training
from tasks.ml.attention import NAME as ATTENTION
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Result
from tasks.ml.tuned import Ahead, Runner, Tuned

PARAMS = TrainParams(rank=4, epochs=2, launch=Launch(dtype="float32"), batch=Batch(packs=4, micro_tokens=64))


def environment() -> dict[str, str]:
    """For a process of its own, on one thread, in a folder of its own."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TUNELINE_THREADS": "1"}


def row(number: int, length: int) -> Segment:
    """A row whose second half is the answer."""
    ids = [(number * 31 + place * 7) % 300 + 3 for place in range(length)]
    return Segment(str(number), ids, [place >= length // 2 for place in range(length)])


ROWS = [row(number, 8 + number % 13) for number in range(20)]
STEPS = 10


def params(method: str, **changes: Any) -> TrainParams:
    return PARAMS.model_copy(update={"method": method, **changes})


def model(base: Path, dtype: torch.dtype = torch.float32, attention: str = ATTENTION) -> Any:
    return loading.load(base, dtype, attention=attention)


def attach(base: Path, wanted: TrainParams, steps: int = STEPS) -> Tuned:
    torch.manual_seed(wanted.launch.seed)
    method, options = methods.find(wanted)
    frozen = model(base, loading.compute_dtype(wanted.launch.dtype))
    frozen.requires_grad_(False)
    return method.attach(frozen, wanted, options, Ahead(steps, [[row] for row in ROWS]))


def fit(
    base: Path, folder: Path, wanted: TrainParams, *, seconds: float = 1e9,
    watch: Callable[[Tuned], Tuned] = lambda tuned: tuned,
) -> tuple[Tuned, Result]:  # fmt: skip
    """Train, with the fused forwards of real runs; `watch` may put an observer on what was attached."""
    tuned = watch(attach(base, wanted))
    fused.fuse(tuned.runner.model)
    packs = [[row] for row in ROWS]
    return tuned, training.fit(tuned, packs, ROWS[:3], wanted, Checkpoints(folder, seconds))


class Killed(Exception):
    """Stands for the kill: nothing after it runs."""


def kill(patch: pytest.MonkeyPatch, *at: int) -> list[Any]:
    """From here on whoever trains is killed at these of the batches, counted from 1 over all trainings; the batches so far."""
    real, calls = training._batch, list[Any]()  # pyright: ignore[reportPrivateUsage]

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in at:
            raise Killed
        return real(*arguments)

    patch.setattr(training, "_batch", failing)
    return calls


def fit_killed(
    base: Path, folder: Path, wanted: TrainParams, patch: pytest.MonkeyPatch, at: Sequence[int] = (4, 9)
) -> tuple[Tuned, Result]:
    """Train with a checkpoint after every step, killed at these of the batches, each time started again."""
    with patch.context() as patched:
        kill(patched, *at)
        for _ in at:
            with pytest.raises(Killed):
                fit(base, folder, wanted, seconds=0)
        return fit(base, folder, wanted, seconds=0)


def assert_killed_ends_as_undisturbed(
    base: Path, folder: Path, wanted: TrainParams, patch: pytest.MonkeyPatch
) -> Tuned:
    """Law: the same bytes, the same curve. The undisturbed run's result."""
    whole, undisturbed = fit(base, folder / "whole", wanted)
    again, resumed = fit_killed(base, folder / "killed", wanted, patch)
    names = whole.trainable()
    assert [name for name in names if not torch.equal(names[name], again.trainable()[name])] == []
    assert [record.loss for record in resumed.history] == [record.loss for record in undisturbed.history]
    assert resumed.validations == undisturbed.validations
    return whole


def assert_steps_alike(
    found: torch.Tensor, expected: torch.Tensor, trainable: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor], optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
) -> None:  # fmt: skip
    """Law: two losses of the same tensors are equal in float64, so are their gradients, and both optimizers then move."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for value, optimizer in zip((found, expected), optimizers, strict=True):
        optimizer.zero_grad()
        value.backward()
    for name, value in trainable.items():
        torch.testing.assert_close(value.grad, tensors[name].grad, rtol=1e-7, atol=1e-11)
    for optimizer in optimizers:
        optimizer.step()


def logits(runner: Runner, length: int = 24) -> torch.Tensor:
    """(tokens, vocabulary) of one prompt, in evaluation mode, without gradients."""
    runner.model.eval()
    prompt = torch.tensor([row(5, length).ids])
    with torch.inference_mode():
        return runner.model(input_ids=prompt, lengths=(length,)).logits[0]


Step = Callable[[torch.Tensor, str], torch.Tensor]


def spelled_out(
    model: Any, states: torch.Tensor, *, half: Step | None = None, layer: Step | None = None
) -> torch.Tensor:
    """Logits of one row by the decoder's equations, in float64, the base's own modules called one by one: `half` is
    applied to what attention and feed-forward add to the states, `layer` to a layer's output, with their full names."""

    def through(change: Step | None, found: torch.Tensor, name: str) -> torch.Tensor:
        return found if change is None else change(found, name)

    length = states.shape[1]
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    places, inner = torch.arange(length)[None], model.base_model
    learned = hasattr(inner, "wpe")
    states = states + inner.wpe(places) if learned else states
    given = {"attention_mask": mask} | ({} if learned else {"position_embeddings": inner.rotary_emb(states, places)})
    for place, block in enumerate(inner.h if learned else inner.layers):
        name = f"transformer.h.{place}" if learned else f"model.layers.{place}"
        attention, first, second = (
            ("attn", "ln_1", "ln_2") if learned else ("self_attn", "input_layernorm", "post_attention_layernorm")
        )
        mixed = getattr(block, attention)(getattr(block, first)(states), **given)[0]
        states = states + through(half, mixed, f"{name}.{attention}")
        states = states + through(half, block.mlp(getattr(block, second)(states)), f"{name}.mlp")
        states = through(layer, states, name)
    return model.lm_head((inner.ln_f if learned else inner.norm)(states))


def loss(runner: Runner, rows: Sequence[Segment]) -> float:
    runner.model.eval()
    with torch.inference_mode():
        return runner.loss_sum(packing.pack(rows), 0.0).item()


def files(tuned: Tuned, folder: Path) -> dict[str, bytes]:
    """What it saves into a new folder: path within it -> bytes."""
    folder.mkdir()
    tuned.save(folder)
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def saved(tuned: Tuned, folder: Path) -> Path:
    folder.mkdir(parents=True)
    tuned.save(folder)
    return folder


def reloaded(base: Path, adapter: Path, dtype: torch.dtype = torch.float32, attention: str = ATTENTION) -> Runner:
    return loading.with_adapter(model(base, dtype, attention), adapter)


def assert_comes_back(base: Path, adapter: Path, tuned: Tuned) -> None:
    """Loaded on a fresh base: every parameter to the last bit, and the outputs to rounding, as training fuses layers."""
    dtype = tuned.runner.model.dtype
    again = reloaded(base, adapter, dtype)
    values = dict(tuned.runner.model.named_parameters())
    assert [name for name, value in again.model.named_parameters() if not torch.equal(value, values[name])] == []
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (0.05, 0.02)
    torch.testing.assert_close(logits(again), logits(tuned.runner), rtol=rtol, atol=atol)
    assert not torch.allclose(logits(again), logits(Runner.of(model(base, dtype))), rtol=rtol, atol=atol)


def gradients(base: Path, wanted: TrainParams, *, recompute: bool = False) -> dict[str, float]:
    """The norm of each trainable tensor's gradient on two packs, activations kept or computed again."""
    tuned = attach(base, wanted)
    tuned.runner.model.train()
    for module in tuned.runner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if recompute:
        memory.recompute(tuned.runner.model)
    totals = [tuned.runner.loss_sum(packing.pack(part), 0.0) for part in (ROWS[:3], ROWS[3:7])]
    torch.stack(totals).sum().backward()  # both packs are through before the first goes back
    return {name: value.grad.norm().item() for name, value in tuned.trainable().items() if value.grad is not None}


def generated(
    runner: Runner, tokenizer: ChatTokenizer, prompts: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """As the evaluation generates: greedily, with a cache, padded on the left."""
    return serving.by_transformers(runner).generate(prompts, count, tokenizer.ends)


def assert_batches_generate_as_singles(base: Path, adapter: Path) -> None:
    """With a cache, prompts of unlike length padded on the left; and what the logits said of a token while it was
    generated is its loss when the same row is trained on."""
    runner, in_training, plain = (
        reloaded(base, adapter, attention="sdpa"),
        reloaded(base, adapter),
        Runner.of(model(base)),
    )
    tokenizer, prompts = ChatTokenizer(base), [row(number, length).ids for number, length in ((1, 12), (2, 5), (3, 30))]
    singles = [generated(runner, tokenizer, [prompt], 12)[0] for prompt in prompts]
    assert generated(runner, tokenizer, prompts, 12) == singles
    found = costs(runner, prompts)
    rows = [
        Segment("0", [*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
        for prompt, (answer, _) in zip(prompts, found, strict=True)
    ]
    assert [loss(in_training, [row]) for row in rows] == pytest.approx([cost for _, cost in found], rel=2e-5)
    assert [loss(plain, [row]) for row in rows] != pytest.approx([cost for _, cost in found], rel=2e-4)


def costs(runner: Runner, prompts: Sequence[Sequence[int]], count: int = 12) -> list[tuple[list[int], float]]:
    """Of each row of a batch, so many generated tokens, and their -log p by the logits that they were chosen from."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = runner.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False,
            return_dict_in_generate=True, output_logits=True, pad_token_id=0,
        )  # fmt: skip
    answers = out.sequences[:, width:]
    chances = torch.stack(out.logits, dim=1).log_softmax(-1).gather(2, answers[..., None])[..., 0]
    return list(zip(answers.tolist(), (-chances.sum(1)).tolist(), strict=True))
