"""The lesson is the same for everybody, our loop does it as PEFT and AdamW would, and operations are counted as torch does."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, LlamaConfig

from benchmarks import harness, train
from benchmarks.harness import Comparison, Failure, Figure, Findings, Flag, Options, Run
from benchmarks.measuring import corpus, hollow_base, lessons, operations
from benchmarks.measuring.lessons import Shape
from benchmarks.peers import lesson
from benchmarks.peers.lesson import IGNORED, Clock, Lesson, Row
from benchmarks.peers.peer import PEERS, Peer
from benchmarks.training import bound, course, gpu, plots
from tests import tiny

STEPS, ROWS_A_STEP, RANK = 3, 2, 4

tokens = st.lists(st.integers(1, 500), min_size=2, max_size=40)


def row(ids: list[int]) -> Row:
    """The second half is learned."""
    return Row(ids, [IGNORED] * (len(ids) // 2) + ids[len(ids) // 2 :])


def run(losses: list[float], seconds: list[float]) -> Run:
    result = {
        "losses": losses,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "tokens": [10] * len(seconds),
        "peak_rss_bytes": 7,
    }
    return Run(100.0, 200.0, 300, 400, result)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def given_lesson(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    rows = [row([(7 * place + 3 * number) % 400 + 3 for place in range(6 + 5 * number)]) for number in range(6)]
    return lessons.of_rows(base, tmp_path_factory.mktemp("adapter"), rows, ROWS_A_STEP, RANK)


# ---- the lesson


@settings(deadline=None, max_examples=20)
@given(st.lists(tokens, min_size=2, max_size=6))
def test_a_lesson_comes_back_from_its_file(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    file = tmp_path_factory.mktemp("lesson") / "lesson.json"
    written = Lesson(Path("base"), Path("adapter"), 4, 8, 1e-3, 1.0, 2, [row(ids) for ids in rows])
    lesson.write(file, written)
    assert lesson.load(file) == written
    batches = [written.batch(step) for step in range(written.steps)]
    assert [one for batch in batches for one in batch] == written.rows[: 2 * written.steps]


@pytest.mark.skipif(not corpus.DATA.is_dir(), reason=f"{corpus.DATA} is absent: nothing to make rows from")
def test_fewer_steps_are_the_beginning_of_more_and_no_row_is_too_long(base: Path, tmp_path: Path) -> None:
    short, long = (lessons.make(base, tmp_path / "adapter", steps, 300, ROWS_A_STEP) for steps in (2, 4))
    assert (len(short.rows), len(long.rows)) == (2 * ROWS_A_STEP, 4 * ROWS_A_STEP)
    assert long.rows[: len(short.rows)] == short.rows
    assert max(len(row.ids) for row in long.rows) <= 300
    assert all(label in (IGNORED, token) for row in long.rows for token, label in zip(row.ids, row.labels, strict=True))
    even = lessons.of_length(base, tmp_path / "adapter", 256, 64, 2)
    assert [len(row.ids) for row in even.rows] == [64] * 8


def test_the_initial_weights_are_those_of_pefts_lora(base: Path, given_lesson: Lesson) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    tuned: Any = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    theirs: dict[str, torch.Tensor] = get_peft_model_state_dict(tuned)
    mine = load_file(given_lesson.adapter / "adapter_model.safetensors")
    assert {name: value.shape for name, value in mine.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in mine.items():
        if "lora_B" in name:
            assert not value.any()
        else:  # uniform: within the same bound, and nearly reaching it
            assert 0.9 < value.abs().max() * math.sqrt(value.shape[1]) <= 1


def test_a_clock_of_other_steps_than_the_lessons_ends_the_run(given_lesson: Lesson) -> None:
    clock = Clock(given_lesson)
    clock.begin()
    clock.end_step()
    with pytest.raises(SystemExit, match="1 losses and 1 times for a lesson of 3 steps"):
        clock.answer("1", [1.0])
    for _ in range(STEPS - 1):
        clock.end_step()
    answer = clock.answer("1", [1.0] * STEPS)
    assert sum(answer.tokens) == sum(len(row.ids) for row in given_lesson.rows)
    assert min(answer.seconds) >= 0
    assert answer.ready_seconds > 0
    assert answer.peak_rss_bytes > 0


# ---- our loop


def test_our_loop_does_the_lesson_as_peft_and_adamw_would(given_lesson: Lesson, tmp_path: Path) -> None:
    lesson.write(tmp_path / "lesson.json", given_lesson)
    setting = {"launch": {"dtype": "float32"}, "batch": {"micro_tokens": 16}}
    outcome = harness.measure(course.ours("tuneline", tmp_path / "lesson.json", tmp_path / "out", setting))
    assert isinstance(outcome, Run), outcome
    assert outcome.result["losses"] == pytest.approx(list(_reference(given_lesson)), abs=1e-5)


def _reference(given: Lesson) -> Iterator[float]:
    """Row by row, without packing."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32)
    tuned: Any = PeftModel.from_pretrained(model, str(given.adapter), is_trainable=True)
    trained = [value for value in tuned.parameters() if value.requires_grad]
    adam = torch.optim.AdamW(trained, lr=given.learning_rate, weight_decay=0.0)
    for step in range(given.steps):
        batch = given.batch(step)
        total, targets = torch.zeros(()), operations.labelled(batch)
        for one in batch:
            logits = tuned(input_ids=torch.tensor([one.ids])).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(one.labels[1:]), reduction="sum")
        adam.zero_grad()
        (total / targets).backward()
        torch.nn.utils.clip_grad_norm_(trained, given.max_grad_norm)
        adam.step()
        yield total.item() / targets


def test_packs_from_the_disk_are_read_for_as_many_steps_as_were_asked(given_lesson: Lesson, tmp_path: Path) -> None:
    lesson.write(tmp_path / "lesson.json", given_lesson)
    contender = course.ours("packs", tmp_path / "lesson.json", tmp_path / "out", {"packs": 40}, "tuneline_packs.py")
    outcome = harness.measure(contender)
    assert isinstance(outcome, Run), outcome
    assert len(outcome.result["seconds"]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.short)
def test_a_peer_does_the_lesson_alike(peer: Peer, given_lesson: Lesson, tmp_path: Path) -> None:
    if reason := peer.absent():
        pytest.skip(reason)
    lesson.write(tmp_path / "lesson.json", given_lesson)
    outcome = harness.measure(peer.trains(tmp_path / "lesson.json", tmp_path / "out", {}))
    assert isinstance(outcome, Run), outcome
    assert outcome.result["losses"] == pytest.approx(list(_reference(given_lesson)), abs=0.02)  # in bfloat16


@pytest.mark.slow
@pytest.mark.skipif(not corpus.DATA.is_dir(), reason=f"{corpus.DATA} is absent: nothing to make rows from")
def test_a_base_that_is_mostly_holes_trains_with_qlora(base: Path, tmp_path: Path) -> None:
    """As the 65 B-shaped one on a GPU: few bytes on the disk, finite losses, and something moves or the run would end."""
    shape = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(base)), hidden_size=128, intermediate_size=512, num_hidden_layers=12,
        num_attention_heads=4, tie_word_embeddings=False, architectures=["LlamaForCausalLM"], dtype="bfloat16",
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    hollow_base.make(shape, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    assert file.stat().st_blocks * 512 < file.stat().st_size / 2
    for name in gpu.TOKENIZER:
        shutil.copy(base / name, tmp_path / "base" / name)
    found = gpu.largest_of(Options(True, 1, {}), tmp_path, tmp_path / "base", "cpu")
    assert not found.failures, found.failures
    assert found.absolute["65 B-shaped, QLoRA: tuneline"]["peak_rss_bytes"]


# ---- counting


def test_operations_of_a_layer_and_the_head_are_those_that_torch_counts() -> None:
    length, hidden, out, vocabulary = 12, 8, 20, 50
    model = Shape({"layer": (out, hidden)}, hidden, vocabulary, 0)
    given = Lesson(Path(), Path(), RANK, 8, 1e-3, 1.0, 1, [row(list(range(length)))])
    x = torch.randn(length, hidden, requires_grad=True)
    states = torch.randn(operations.labelled(given.rows), hidden, requires_grad=True)
    weight, head = torch.randn(out, hidden), torch.randn(vocabulary, hidden)
    a, b = torch.randn(RANK, hidden, requires_grad=True), torch.randn(out, RANK, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (x @ weight.t() + (x @ a.t()) @ b.t()).sum().backward()
        (states @ head.t()).sum().backward()
    assert operations.of_lesson(model, given) == counter.get_total_flops()


def test_attention_is_counted_as_the_causal_half() -> None:
    length, hidden = 64, 8
    given = Lesson(Path(), Path(), RANK, 8, 1e-3, 1.0, 1, [Row(list(range(length)), [IGNORED] * length)])
    q, k, v = (torch.randn(length, hidden, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        ((q @ k.t()) @ v).sum().backward()
    half = counter.get_total_flops() / 2
    assert operations.of_lesson(Shape({}, hidden, 50, 1), given) == pytest.approx(half * (length + 1) / length)


def test_the_products_of_a_model_are_measured_and_shared(base: Path, given_lesson: Lesson) -> None:
    found = bound.products(base, given_lesson, 0.001)
    assert isinstance(found, Run), found
    assert bound.better(found, Failure("busy")) == Failure("busy")
    series = {"tuneline": (run([1.0] * STEPS, [1.0] * STEPS),)}
    shares = bound.share(Comparison("tuneline", series, {}), base, given_lesson, found).ratios
    each = operations.of_lesson(lessons.shape(base), given_lesson) / sum(len(row.ids) for row in given_lesson.rows)
    expected = 10 * each / (found.result["bfloat16"]["seconds"] * 1e9)
    assert shares["share of the bound in bfloat16"]["seconds"]["median"] == pytest.approx(expected, abs=1e-6)


# ---- what is told


def test_steps_alone_count_and_the_first_may_be_left_out() -> None:
    comparison = Comparison("a", {"a": (run([2.0, 1.0], [4.0, 1.0]),)}, {})
    (one,) = course.steps_only(comparison, first=1).runs["a"]
    assert (one.wall_seconds, one.cpu_seconds, one.peak_rss_bytes) == (1.0, 1.0, 7)
    assert course.rate(comparison.runs["a"], "seconds") == Figure(4.0, 4.0, 4.0)
    assert course.apart(run([2.0, 1.0], [1.0, 1.0]), run([2.5, 1.1], [1.0, 1.0])) == 0.5


def test_joining_loses_nothing() -> None:
    parts = [Findings({name: 1}, {name: 2}, [name], {name: "why"}) for name in ("a", "b")]
    assert course.joined(*parts) == Findings({"a": 1, "b": 1}, {"a": 2, "b": 2}, ["a", "b"], {"a": "why", "b": "why"})


def test_growth_is_drawn(tmp_path: Path) -> None:
    plots.draw(tmp_path / "new" / "rank.png", "rank", "", {4: (300.0, 900.0), 64: (200.0, 1000.0)})
    assert (tmp_path / "new" / "rank.png").read_bytes().startswith(b"\x89PNG")


def test_a_scripts_own_flags_reach_it_and_paths_stay_out_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "QUICK_CEILING_SECONDS", 0.001)
    seen: list[Options] = []

    def measured(options: Options) -> Findings:
        seen.append(options)
        return Findings()

    flags = (Flag("plots", "there", folder=True), Flag("gpu", "on a GPU"))
    argv = ["--quick", "--gpu", "--plots", str(tmp_path), "--json", str(tmp_path / "found.json")]
    assert harness.main("train", "about", measured, 2, 1, argv, flags) == 0
    assert seen == [Options(True, 1, {"plots": tmp_path, "gpu": True})]
    assert json.loads((tmp_path / "found.json").read_bytes())["command"] == "python benchmarks/train.py --quick --gpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_that_is_said_and_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "QUICK_CEILING_SECONDS", 0.001)
    assert train.main(["--quick", "--gpu"]) == 0
    assert "no NVIDIA GPU" in capsys.readouterr().out
